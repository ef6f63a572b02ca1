// Package audit looks for the secrets of a node's running tasks where they must not be: in what Docker tells, in Docker's,
// containerd's and Nomad's files, in logs, and in command lines.
//
// What is looked for (values.go, collect*.go) is what root finds on the node: the journal's tokens and leased values; the variables
// that a task's secrets are in, from the environment of its process; and what is in the secrets directory of any task, this plugin's or
// not. Where it is looked (sources.go) is each place that a Nomad driver, or Docker, writes to by itself. A report says what is where, and
// by which driver's task; never a value, nor any text that a task chose and that may be one.
//
// Tasks are hostile: their directories are walked by descriptors and no link in them is followed, and how much is read and kept of
// each is bounded.
package audit
