// Go's net/http with the proxy of the environment. Arguments: the plan and the file of the CA.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func show(id, kind, text string) {
	fmt.Println(strings.Join([]string{"Go net/http", id, kind, strings.Join(strings.Fields(text), " ")}, "\t"))
}

func read(file string) []byte {
	content, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	return content
}

func main() {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read(os.Args[2]))
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	if file := os.Getenv("CLIENT_CERT"); file != "" {
		certificate, err := tls.LoadX509KeyPair(file, os.Getenv("CLIENT_KEY"))
		if err != nil {
			panic(err)
		}
		transport.TLSClientConfig.Certificates = []tls.Certificate{certificate}
	}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	show("-", "version", strings.TrimPrefix(runtime.Version(), "go"))
	for _, line := range strings.Split(strings.TrimSpace(string(read(os.Args[1]))), "\n") {
		part := strings.Split(line, " ")
		size, err := strconv.Atoi(part[2])
		if err != nil {
			panic(err)
		}
		post(client, part[0], part[1], size)
	}
}

func post(client *http.Client, id, url string, size int) {
	response, err := client.Post(url, "application/json", bytes.NewReader(bytes.Repeat([]byte("x"), size)))
	if err != nil {
		show(id, "error", err.Error())
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		show(id, "error", err.Error())
		return
	}
	show(id, "status", strconv.Itoa(response.StatusCode))
	show(id, "phrase", strings.TrimPrefix(response.Status, strconv.Itoa(response.StatusCode)))
	show(id, "field", response.Header.Get("X-Outrider-Error"))
	show(id, "body", string(body))
}
