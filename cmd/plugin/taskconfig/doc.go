// Package taskconfig makes of a task's `config` block, as it stands in a job's file, what the task's driver gets: by the
// driver's own schema, and refused where a start refuses it.
//
// What only Nomad knows when it starts the task (`${meta.rack}`) is not known here. Such a value is never what is wrong: something
// that fits stands in its place, and Unknown tells which values those are.
package taskconfig
