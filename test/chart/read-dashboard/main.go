// Reads a Grafana dashboard from standard input as Grafana's own library does, strictly: unknown, missing and mistyped
// fields are errors. Exit status 1 if there are any. The library is not strict (v0.0.22) about queries and the units of fields.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// check returns the problems of a dashboard.
func check(text []byte) error {
	// The kinds of panels and queries that the dashboard uses. Options of other kinds are not read.
	runtime := cog.NewRuntime()
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	read := dashboard.Dashboard{}
	err := read.UnmarshalJSONStrict(text)
	// The library also returns an empty list of errors (v0.0.22).
	var problems cog.BuildErrors
	if errors.As(err, &problems) && len(problems) == 0 {
		err = nil
	}
	return errors.Join(err, read.Validate())
}

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = check(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
