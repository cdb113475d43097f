package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// print writes a result as --output says.
func (a *App) print(o *options, result any, text func() string) error {
	var err error
	if o.output == "json" {
		err = json.NewEncoder(a.Stdout).Encode(result)
	} else {
		_, err = io.WriteString(a.Stdout, text())
	}
	if err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

var versionCommand = command{
	name: "version", summary: "Print the version",
	details: `JSON: {"version"}`,
	do: func(a *App, _ context.Context, o *options) error {
		return a.print(o, map[string]string{"version": a.Version}, func() string { return a.Version + "\n" })
	},
}
