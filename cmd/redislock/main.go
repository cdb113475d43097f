// Command redislock holds locks in Redis for shells, cron and services.
package main

import (
	"context"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/redislock-operator/redislock-operator/internal/cli"
)

// version is set by the linker.
var version = "devel"

// quiet drops what go-redis logs: what matters of it is an error that we say.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func main() {
	redis.SetLogger(quiet{})
	app := cli.App{Version: version, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ()}
	os.Exit(app.Main(context.Background(), os.Args[1:]))
}
