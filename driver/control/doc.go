// Package control is how the operator's commands reach the plugin processes of a node: each has a unix socket,
// <state_dir>/status/<driver>-<pid>.sock, and answers HTTP with JSON at it.
//
//	GET  /v1/status              → Report
//	POST /v1/refresh, /v1/rotate   Selection → outcomes
//
// The directory is root's, 0700, and whoever connects must be root, too. A process's socket has its pid in its name, for
// several processes of one driver may run: the one of an agent that is gone, and a new one. What a process that was killed
// has left refuses connections, and is removed by the next one that starts.
package control
