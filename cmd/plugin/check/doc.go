// Package check finds what is wrong with the secrets of a job before Nomad is given it: all that a start would refuse, as errors
// with their line, and what is likely not meant, as warnings.
//
// What a start refuses is found by the start's own code (taskconfig, secrets.Compile). Nothing is asked of a server, but
// with Live, which asks for a token's capabilities and makes nothing.
package check
