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
	writeCommands(&b, commands())
	b.WriteString("\nThe Redis is --redis-url or " + urlVariable + ". More: redislock COMMAND --help\n\nExit codes:\n")
	writeExitCodes(&b)
	_, _ = io.WriteString(w, b.String())
}

func writeCommands(b *strings.Builder, commands []command) {
	for _, c := range commands {
		fmt.Fprintf(b, "  %-38s %s\n", c.name+" "+c.arguments, c.summary)
	}
}

// helpOfGroup is for who knows the first word of a command.
func (a *App) helpOfGroup(group []command) {
	var b strings.Builder
	b.WriteString("Commands:\n")
	writeCommands(&b, group)
	b.WriteString("\nMore: redislock COMMAND --help\n")
	_, _ = io.WriteString(a.Stdout, b.String())
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
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		fmt.Fprintf(&b, "  %-28s %s", strings.TrimSpace(dashes+f.Name+" "+kind), text)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0s" {
			fmt.Fprintf(&b, " (default %s)", f.DefValue)
		}
		b.WriteString("\n")
	})
	b.WriteString("\nExit codes:\n")
	writeExitCodes(&b)
	_, _ = io.WriteString(a.Stdout, b.String())
}
