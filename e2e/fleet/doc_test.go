// Package fleet simulates the nodes of a fleet at one Vault: the sessions, journals, polls and limits of each node are the real
// ones, and Nomad and Docker are not there. Vault is a real one for some nodes, and a model of it, whose figures are measured
// on the real one, for a whole fleet: a model can be asked in a synctest bubble, where an hour takes no time.
//
// docs/fleet.md has what comes of it.
package fleet
