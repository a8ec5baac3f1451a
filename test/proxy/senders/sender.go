// A sender with the transport of Convoy's dispatcher: net/http, proxy from the environment, ten seconds an attempt.
// Arguments: a CA file, then URLs, which one client posts to in turn. Prints what a delivery attempt would keep.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	pem, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		MaxIdleConns:          1000,
		MaxIdleConnsPerHost:   100,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	}}
	for _, url := range os.Args[2:] {
		if err := post(client, url); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

func post(client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"event":"paid"}`))
	if err != nil {
		return err
	}
	request.Header.Set("X-Convoy-Signature", "5f3a")
	request.Header.Set("Accept-Encoding", "gzip")
	request.Header.Set("User-Agent", "Convoy/v26.7.3")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%s\n", response.Status, body)
	return nil
}
