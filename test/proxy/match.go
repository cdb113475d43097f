package proxy

import (
	"slices"
	"strings"
)

// Match chooses requests by their arguments, the first of which is the name of
// the command. It must not call the proxy.
type Match func(args []string) bool

// Command matches commands by name, in upper or lower case.
func Command(names ...string) Match {
	return func(args []string) bool {
		return len(args) > 0 && slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, args[0]) })
	}
}

// Script matches the run of a script, by EVAL, EVALSHA or FCALL, that is given
// all of these keys or arguments, in any place.
func Script(with ...string) Match {
	return All(Command("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"), With(with...))
}

// With matches requests that have all of these among their arguments.
func With(wanted ...string) Match {
	return func(args []string) bool {
		for _, w := range wanted {
			if len(args) == 0 || !slices.Contains(args[1:], w) {
				return false
			}
		}
		return true
	}
}

// All matches what each of the matches matches.
func All(matches ...Match) Match {
	return func(args []string) bool {
		return !slices.ContainsFunc(matches, func(m Match) bool { return !m(args) })
	}
}
