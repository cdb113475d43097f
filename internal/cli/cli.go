// Package cli is the command line redislock: locks in Redis for shells, cron and
// services. See docs/cli.md.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// App is what a command line runs in.
type App struct {
	Version string
	// Stdin, Stdout and Stderr are files, for the commands that are run get them.
	Stdin, Stdout, Stderr *os.File
	Environ               []string
}

// getenv is the environment's last value of a name, as the programs run see it.
func (a *App) getenv(name string) string {
	for _, entry := range slices.Backward(a.Environ) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// A command is one of the command line's.
type command struct {
	name, arguments, summary string
	// details is further text of its help.
	details string
	// positional is how many arguments it takes, from and to.
	positional [2]int
	// runs: a program and its arguments follow after "--".
	runs bool
	// bind adds flags of its own.
	bind func(*options, *flag.FlagSet)
	do   func(*App, context.Context, *options) error
}

// options is everything that a command line said.
type options struct {
	command    command
	connection connection
	lock       lockFlags
	debounce   debounceFlags
	output     string

	arguments []string // before "--"
	program   []string // after it
}

func commands() []command {
	return []command{
		runCommand, electCommand, acquireCommand, releaseCommand, statusCommand, listCommand, historyCommand,
		debounceCallCommand, debounceRunCommand, debounceStatusCommand, versionCommand,
	}
}

// Main carries out a command line, without the program's name, and returns the exit
// code.
func (a *App) Main(ctx context.Context, args []string) int {
	if len(args) == 2 && args[0] == guardName {
		return guardMain(a.Stdin, args[1])
	}
	err := a.dispatch(ctx, args)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if text := message(err); text != "" {
		_, _ = fmt.Fprintf(a.Stderr, "redislock: %s\n", text)
	}
	return code
}

func (a *App) dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		a.help(a.Stderr)
		return &exitError{code: exitUsage}
	}
	switch {
	case slices.Contains(helpWords, args[0]):
		a.help(a.Stdout)
		return nil
	case args[0] == "-version" || args[0] == "--version":
		args = []string{versionCommand.name}
	}
	words := 1
	if group := groupOf(args[0]); len(group) > 0 {
		if len(args) < 2 {
			return usage("%s: write redislock %s COMMAND; see redislock %s --help", args[0], args[0], args[0])
		}
		if slices.Contains(helpWords, args[1]) {
			a.helpOfGroup(group)
			return nil
		}
		words = 2
	}
	name := strings.Join(args[:words], " ")
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == name })
	if i < 0 {
		return usage("%q is no command; see redislock help", name)
	}
	c := commands()[i]
	o, err := a.parse(c, args[words:])
	if errors.Is(err, flag.ErrHelp) {
		a.helpOf(c)
		return nil
	}
	if err != nil {
		return err
	}
	return c.do(a, ctx, o)
}

var helpWords = []string{"help", "-h", "-help", "--help"}

// groupOf returns the commands whose names begin with a word and go on after it.
func groupOf(word string) []command {
	return slices.DeleteFunc(commands(), func(c command) bool { return !strings.HasPrefix(c.name, word+" ") })
}

func newFlags(c command, o *options) *flag.FlagSet {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are said once, by Main
	if c.name != versionCommand.name {
		o.connection.bind(fs)
	}
	if c.bind != nil {
		c.bind(o, fs)
	}
	if !c.runs {
		fs.StringVar(&o.output, "output", "text", "text or json")
		fs.StringVar(&o.output, "o", "text", "short for --output")
	}
	return fs
}

// parse reads flags wherever they stand before "--".
func (a *App) parse(c command, args []string) (*options, error) {
	o := &options{command: c, output: "text"}
	if i := slices.Index(args, "--"); i >= 0 {
		args, o.program = args[:i], args[i+1:]
		if !c.runs {
			return nil, usage("%s runs no program: leave out what begins at --", c.name)
		}
	}
	fs := newFlags(c, o)
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usage("%s: %v; see redislock %s --help", c.name, err, c.name)
		}
		if args = fs.Args(); len(args) > 0 {
			o.arguments, args = append(o.arguments, args[0]), args[1:]
		}
	}
	switch n := len(o.arguments); {
	case n < c.positional[0]:
		return nil, usage("%s: write redislock %s %s", c.name, c.name, c.arguments)
	case n > c.positional[1] && c.runs:
		return nil, usage("%s: %q is one argument too many: write the program to run after --", c.name, o.arguments[c.positional[1]])
	case n > c.positional[1]:
		return nil, usage("%s: %q is one argument too many: write redislock %s %s", c.name, o.arguments[c.positional[1]], c.name, c.arguments)
	case c.runs && len(o.program) == 0:
		return nil, usage("%s: no program to run: write redislock %s %s", c.name, c.name, c.arguments)
	case o.output != "text" && o.output != "json":
		return nil, usage("%s: --output %q: write text or json", c.name, o.output)
	}
	return o, nil
}

// key is the first argument.
func (o *options) key() (string, error) {
	key := o.arguments[0]
	return key, redislock.ValidateKey(key)
}

// connect makes the client of a command that needs one.
func (a *App) connect(o *options) (*store, error) {
	if err := o.lock.check(); err != nil {
		return nil, usage("%s: %v", o.command.name, err)
	}
	s, err := o.connection.connect(a.getenv, o.lock.identity)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.command.name, err)
	}
	return s, nil
}

// interruptible returns a context that ends, with a *signalError as its cause, when a
// signal comes that ends programs; see signals.
func (a *App) interruptible(ctx context.Context) (*signals, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &signals{Context: ctx, cancel: cancel, received: make(chan os.Signal, 16)}
	signal.Notify(s.received, forwarded()...)
	done := make(chan struct{})
	go s.deliver(done)
	return s, func() {
		signal.Stop(s.received)
		close(done)
		cancel(nil)
	}
}
