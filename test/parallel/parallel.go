// Package parallel is for packages whose tests wait more than they work.
package parallel

import "flag"

// Many has more tests run at once than there are processors, unless -parallel says how
// many. It is to be called by TestMain.
func Many() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", "16")
	}
}
