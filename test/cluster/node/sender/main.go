// What pods of the node tests run. `sender pause` does nothing, `sender check` ends at once; `sender` is a webhook sender with the transport of Convoy's
// dispatcher, which posts on request and, with LOOP_URL, by itself every LOOP_MS milliseconds:
//
//	GET /send?url=U      one delivery, as JSON
//	GET /log?from=N      deliveries of the loop from the Nth on, as JSON, in the order in which they ended
//	GET /open            when the deliveries of the loop began that have not ended (Unix milliseconds), as JSON
//	GET /environment     the variables, as JSON
package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// One delivery: when it began and ended (Unix milliseconds), and what came of it.
type delivery struct {
	Began    int64  `json:"began"`
	Ended    int64  `json:"ended"`
	Attempts int    `json:"attempts"`
	Status   int    `json:"status"`
	Body     string `json:"body,omitempty"`
	Error    string `json:"error,omitempty"`
}

// As Convoy does it: a new connection where none is idle, ten seconds for an attempt.
var client = &http.Client{Transport: &http.Transport{
	Proxy:               http.ProxyFromEnvironment,
	MaxIdleConns:        1000,
	MaxIdleConnsPerHost: 100,
	IdleConnTimeout:     30 * time.Second,
	TLSHandshakeTimeout: 5 * time.Second,
	ForceAttemptHTTP2:   true,
	// The loops of these tests ask for a fresh source address each time.
	DisableKeepAlives: true,
	DialContext:       (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
}}

func attempt(url string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"event":"paid"}`))
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	return response.StatusCode, string(body), err
}

// deliver tries until it is taken, as often as attempts says; pauses grow from a second.
func deliver(url string, attempts int) delivery {
	one := delivery{Began: time.Now().UnixMilli()}
	for pause := time.Second; ; pause *= 2 {
		var err error
		one.Attempts++
		one.Status, one.Body, err = attempt(url)
		one.Error = ""
		if err != nil {
			one.Error = err.Error()
		}
		if (err == nil && one.Status < 300) || one.Attempts >= attempts {
			break
		}
		time.Sleep(pause)
	}
	one.Ended = time.Now().UnixMilli()
	return one
}

func number(name string, fallback int) int {
	value, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return fallback
	}
	return value
}

var (
	lock sync.Mutex
	log  = []delivery{}
	// When deliveries began that have not ended, by their number.
	open = map[int]int64{}
)

func loop(url string) {
	attempts := number("LOOP_ATTEMPTS", 1)
	ticks := time.Tick(time.Duration(number("LOOP_MS", 50)) * time.Millisecond)
	for i := 0; ; i++ {
		<-ticks
		lock.Lock()
		open[i] = time.Now().UnixMilli()
		lock.Unlock()
		go func() {
			one := deliver(url, attempts)
			lock.Lock()
			defer lock.Unlock()
			delete(open, i)
			log = append(log, one)
		}()
	}
}

func answer(response http.ResponseWriter, value any) {
	response.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(response).Encode(value)
}

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	switch strings.Join(os.Args[1:], " ") {
	case "check":
		return
	case "pause":
		<-ended
		return
	}
	if url := os.Getenv("LOOP_URL"); url != "" {
		go loop(url)
	}
	http.HandleFunc("/send", func(response http.ResponseWriter, request *http.Request) {
		answer(response, deliver(request.FormValue("url"), 1))
	})
	http.HandleFunc("/log", func(response http.ResponseWriter, request *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		from, _ := strconv.Atoi(request.FormValue("from"))
		answer(response, log[min(max(from, 0), len(log)):])
	})
	http.HandleFunc("/open", func(response http.ResponseWriter, _ *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		answer(response, slices.AppendSeq([]int64{}, maps.Values(open)))
	})
	http.HandleFunc("/environment", func(response http.ResponseWriter, _ *http.Request) {
		answer(response, os.Environ())
	})
	go func() { panic(http.ListenAndServe(":8080", nil)) }()
	<-ended
}
