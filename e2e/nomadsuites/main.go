// nomadsuites compares how Nomad's own tests of its drivers ended with the drivers as they are, and with ours served around
// them. Its script, run, makes what it reads, and `make nomad-suites` calls that.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	names := flag.Bool("differing", false, "print the tests that differ, for -test.run, and nothing else")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: nomadsuites [-differing] DIRECTORY SUITE...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() < 2 {
		flag.Usage()
		os.Exit(2)
	}
	same := true
	for _, suite := range flag.Args()[1:] {
		c, err := compareSuite(flag.Arg(0), suite)
		if err != nil {
			fmt.Fprintln(os.Stderr, "nomadsuites:", err)
			os.Exit(2)
		}
		if *names {
			fmt.Print(c.pattern())
			continue
		}
		c.write(os.Stdout, suite)
		same = same && len(c.differing) == 0
	}
	if !same {
		os.Exit(1)
	}
}

// compareSuite compares the runs of one suite.
func compareSuite(dir, suite string) (comparison, error) {
	wrapped, _, err := readRuns(dir, suite+".wrapped")
	if err != nil {
		return comparison{}, err
	}
	ours, again, err := readRuns(dir, suite+".ours")
	if err != nil {
		return comparison{}, err
	}
	c := compare(wrapped, ours, documented)
	c.again = again
	return c, nil
}
