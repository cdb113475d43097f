//go:build ignore

// Command golangci-lint is golangci-lint with two linters compiled in that it
// does not bring along: kube-api-linter for the API types, and logcheck for
// structured logging. Its own way to do so, "golangci-lint custom", clones
// itself with git; this needs nothing but the modules in go.tools.mod:
//
//	go run -modfile=go.tools.mod ./hack/tools/golangci-lint/main.go run
//
// The build constraint keeps these imports out of the root module, where
// "go mod tidy" would otherwise require them.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/golangci/golangci-lint/v2/pkg/commands"
	"github.com/golangci/golangci-lint/v2/pkg/exitcodes"

	_ "sigs.k8s.io/kube-api-linter"
	_ "sigs.k8s.io/logtools/logcheck/gclplugin"
)

func main() {
	if err := commands.Execute(buildInfo()); err != nil {
		fmt.Fprintln(os.Stderr, "golangci-lint:", err)
		os.Exit(exitcodes.Failure)
	}
}

func buildInfo() commands.BuildInfo {
	info := commands.BuildInfo{GoVersion: "unknown", Version: "unknown", Commit: "unknown", Date: "unknown"}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	info.GoVersion = build.GoVersion
	for _, dep := range build.Deps {
		if dep.Path == "github.com/golangci/golangci-lint/v2" {
			info.Version, info.Commit = dep.Version, dep.Sum
		}
	}
	return info
}
