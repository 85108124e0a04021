package main

import (
	"fmt"
	"io"

	"gpuherd/generator"
)

// show prints the units as --dry-run does.
func show(w io.Writer, r *generator.Result) error {
	for _, f := range r.Plan.Files {
		data, err := f.Unit.Bytes()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "--- %s ---\n%s\n", f.Path, data); err != nil {
			return err
		}
	}
	for _, l := range r.Plan.Links {
		if _, err := fmt.Fprintf(w, "--- %s ---\n-> %s\n\n", l.Path, l.Target); err != nil {
			return err
		}
	}
	return nil
}
