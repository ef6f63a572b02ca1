// Package lifecycle keeps the secrets of running tasks alive: from the first fetch to the last
// revocation. The guarantees it is cited with (S1, C2, E1, …) are those of the design's section 6.
//
// # One task through it
//
// A Keeper is one plugin process's. Its Open makes a Session of a task that is to start (fetch.go):
// the intent is journalled, a token got (token.go), every secret fetched at once, each lease in the
// journal before anything else happens to it (E2), and the set rendered. An outage is waited out,
// what only a person can mend is an error at once (S2), and on any error all is undone, by the same
// End that a session comes to anyway.
//
// The driver starts the task and calls Watch. From then on one goroutine (watch.go) owns the
// session: it does what is due, computes the next moment, and sleeps. What to do when is decided by
// functions of the time, what was granted, and a random number (schedule.go). Requests and Host
// calls run beside the loop, so that a server that hangs delays nobody else and never the end; each
// hands a function back for the loop to run. So the session's state needs no locks.
//
// What the loop does:
//
//   - leases are renewed early; a renewal that fails is tried again while the lease lives, and is no
//     rotation (C1). One at its maximum is replaced before its end; one that is gone, at once (C6);
//
//   - our own token (login.go) is renewed, and replaced when it can be renewed no more; Nomad's is
//     followed; one that has died takes its leases along, and they are made anew;
//
//   - static secrets are polled, by one poll for all tasks that share a path (poll.go), and read with
//     the task's own identity when the poll finds something new (C5). The same content is nothing (C7).
//
//   - what the task's policies grant, where the job asks for that, is looked at again (policies.go): more is
//     added, less is left out.
//
// Each of these ends in a change (rotation.go). Changes gather; when the moment of the strongest has
// come, a rotation fetches what is new, journals it with its values, publishes, and restarts,
// signals or runs a script. Only then are the old leases revoked (C2). A crash from the journalling
// on finds the new secrets and does the act again; before it, the old ones hold and what was minted
// is revoked (E2). While the server is away nothing can be fetched, and so nothing happens (C3).
//
// End, or Abandon by a later process, makes the journal a debt (owed.go): a directory that holds
// what is to be revoked until that is done, across restarts of the plugin (E1). Recover makes a
// Session of the journal of a task that runs, and asks the server nothing (C4).
//
// # Invariants
//
//   - No lease and no token of ours exists that the journal, or a debt, does not name, but for one
//     whose answer was not yet there.
//   - The journal's values are those of its leases: they are written first.
//   - A lease that the task may still use is not revoked.
//   - Tokens and values rest in the journal's own files and nowhere else; events and errors have none.
//   - A token of Nomad's or the operator's is never renewed and never revoked.
package lifecycle
