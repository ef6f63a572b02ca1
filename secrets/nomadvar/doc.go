// Package nomadvar reads Nomad Variables: the provider `nomad`.
//
// # One variable through it
//
// Each request finds the task's own identity again (identity.go), since Nomad renews it in its file, and goes to the task
// API: a unix socket that Nomad makes in each task's secrets directory (socket.go). Any task's socket serves any task's token,
// so where the task's own is not there, or is not the agent's, another one of the node is asked; then the agent's address, if
// the operator has given one.
//
// A wait is a blocking query (wait.go). Its answer is only a bell, the variable's index, for Nomad goes on to answer it when the
// right that it began with has been taken away: what is in it is not looked at.
//
// # Invariants
//
//   - A token goes to the agent only: to a socket whose other end is of the plugin's own user and in its mount namespace, or
//     to the operator's address. A task can put what it likes in its secrets directory.
//   - Requests name the job's namespace: without one Nomad takes `default`.
//   - Nothing of the plugin's own environment (NOMAD_ADDR, NOMAD_TOKEN, …) decides what a task reads, nor as whom.
package nomadvar
