package cli

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

func (a *App) help(w io.Writer) {
	var b strings.Builder
	b.WriteString("redislock holds locks in Redis that shells, hosts and clusters share.\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-38s %s\n", c.name+" "+c.arguments, c.summary)
	}
	b.WriteString("\nThe Redis is --redis-url or " + urlVariable + ". More: redislock COMMAND --help\n\nExit codes:\n")
	writeExitCodes(&b)
	_, _ = io.WriteString(w, b.String())
}

func (a *App) helpOf(c command) {
	var b strings.Builder
	fmt.Fprintf(&b, "redislock %s %s\n\n%s.\n", c.name, c.arguments, c.summary)
	if c.details != "" {
		b.WriteString("\n" + c.details + "\n")
	}
	b.WriteString("\nFlags:\n")
	newFlags(c, &options{}).VisitAll(func(f *flag.Flag) {
		kind, text := flag.UnquoteUsage(f)
		fmt.Fprintf(&b, "  %-28s %s", strings.TrimSpace("--"+f.Name+" "+kind), text)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0s" {
			fmt.Fprintf(&b, " (default %s)", f.DefValue)
		}
		b.WriteString("\n")
	})
	b.WriteString("\nExit codes:\n")
	writeExitCodes(&b)
	_, _ = io.WriteString(a.Stdout, b.String())
}
