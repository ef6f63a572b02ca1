// Package policy makes of a job the least Vault policy for each of its tasks, and the JWT role that is bound to the job.
//
// Where a mount ends, and which version of KV it has, the operator says, or a server, or it is guessed; then the policy says so.
// What is written is to be run in a shell and read by Vault: so names and paths that mean something to either are refused, not
// escaped.
package policy
