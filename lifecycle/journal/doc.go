// Package journal keeps what is written about each task, so that a plugin that is killed at any moment loses no
// lease, no token and no secret (E2).
//
// # One task through it
//
// [Create] writes the intent before the server is asked for anything. Each token ([Journal.SaveToken]) and each
// lease ([Journal.AddLease]) is written before anything else happens with it. [Journal.Save] writes the values and
// the entry that goes with them, at the start and at each rotation. A later process reads all of it with [Open].
//
// At the task's end the whole directory becomes a pending revocation, in one rename ([Pending.Move]). What a
// rotation has replaced is split off as one while the task goes on ([Pending.SplitLeases], [Pending.SplitToken]).
// Package revoke runs them.
//
// [TakeOver] moves what an older version left at its place.
//
// # On disk
//
// <StateDir>/<alloc>/<task>/ has entry.json (no secret is in it, L2), tokens.json and values.json; pending
// revocations have the same files below <StateDir>/.owed. The names of the directories, and of the fields in the
// files, are those of the first version, and every version reads them: the Go names may differ.
//
// # Invariants
//
//   - A write replaces a whole file by rename: a crash leaves the old or the new one.
//   - Values are written before the entry that names them.
//   - A lease or a token leaves a journal only after it is known to have ended or is in a pending revocation.
//   - Nothing that somebody else could write to is read, and no name of a task leads out of its directory.
//   - Errors quote nothing of a file's content (L4).
package journal
