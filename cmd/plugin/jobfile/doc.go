// Package jobfile reads a job's file: as Nomad's own command line reads it, and a second time for the places in it.
//
// jobspec2 turns a file into a job and forgets where each part stood. So the same bytes are parsed again by hclsyntax, and Find
// looks there for a part of a task. JSON has no positions.
package jobfile
