// Package lab is what the end-to-end scenarios have in common: a test's view of an agent (Lab), jobs and tasks of
// the kinds that many tests need, and what must be true of them.
//
// A scenario makes a Lab on an agent of a running cluster, sets up Vault with it, runs a job and waits:
//
//	l := lab.New(t, cluster, cluster.Agent)
//	l.PutColour("app", "green")
//	l.AllowLeased("app", "secret/data/app")
//	alloc := l.Run(hcl)
//	l.Lines(alloc, "web", "start ", 1)
//	l.PutColour("app", "blue")
//	l.Lines(alloc, "web", "start ", 2)
//	l.NotRestarted(alloc, "web")
//
// The helpers assert: a method of a Lab ends the test, by the test's own T, when it did not find or do what its
// name says. Those that return an error are conditions, for Until.
package lab
