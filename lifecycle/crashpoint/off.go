//go:build !crashtest

package crashpoint

// Reached says that a step is done for a task.
func Reached(Point, string) {}
