// Package hostile is a process that tries to take over the starts of others' tasks and commands (L1), for tests:
// it goes after the FIFOs by which the launcher is told what to run, in a tight loop, as whatever user it runs as.
//
// It knows what any process on a machine can know: the names in the arguments of launchers, what is in the
// directories that it may list, and where a task's directories are.
package hostile
