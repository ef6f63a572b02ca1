// Package doctor looks at a node that is to run tasks with secrets: the agent's configuration, the plugin's files, the secrets server,
// and the machine. Gather asks all of these and makes a Node, which is plain facts; Check makes findings of a Node and asks nothing, so
// that a test can have any node that there is. Nothing is changed.
package doctor
