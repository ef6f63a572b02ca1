// Package lifecycle keeps the secrets of running tasks alive: from the first fetch to the last
// revocation. The numbers (S1, C2, E1, …) are those of docs/guarantees.md.
//
// # The rooms
//
//   - lifecycle: the Keeper, its sessions, and their decisions;
//   - lifecycle/limit: when a request may go, so that no job delays another's (C11);
//   - lifecycle/journal: what is written about a task, and where pending revocations lie (E2);
//   - lifecycle/revoke: runs the pending revocations (E1);
//   - lifecycle/poll: finds out when a static secret changes (C5).
//
// Imports go from lifecycle to the others, from revoke to journal and limit, and from poll to limit.
//
// # One task through it
//
// A Keeper is one plugin process's. Its Open makes a Session of a task that is to start (fetch.go):
// the intent is journalled, a token got (token.go), every secret fetched at once, each lease in the
// journal before anything else happens to it (E2), and the set rendered. An outage is waited out,
// what only an operator can change is an error at once (S2), and on any error all is undone, by the same
// End that a session comes to anyway.
//
// Where a secret is read from is its provider (provider.go): reading is what all of them do, and what only some do
// (tokens, leases, discovery, waits) is asked of those alone. A session has tokens only if one of its secrets' providers
// has some, and what happens to one provider holds up no secret of another's.
//
// A start that waits says so in an event (waiting.go): Nomad shows nothing of one that is under way.
//
// From the end of Open on one goroutine (watch.go) owns the session. While the driver starts the task, which may take minutes, it
// renews and polls, and changes gather; when the program is about to run, Deliver (delivery.go) gives it what is good then (S9).
// After Watch, changes are applied. The loop does what is due, computes when something is due next, and sleeps. What to do when is
// decided by functions of the time, what was granted, and a random number (schedule.go). Requests and Host
// calls run beside the loop, so that a server that hangs delays nobody else and never the end; each
// hands a function back for the loop to run. So the session's state needs no locks.
//
// What the loop does:
//
//   - leases are renewed early; a renewal that fails is tried again while the lease lives, and is no
//     rotation (C1). One at its maximum is replaced before its end; one that is lost, at once (C6);
//
//   - our own token (token_renew.go) is renewed, and replaced when it can be renewed no more; Nomad's is
//     reloaded; with a token that has ended its leases are lost, and fetched again;
//
//   - static secrets are polled, by one poll for all tasks that share a path (static.go), or one wait where the
//     provider can wait, and read with the task's own identity when that finds something new (C5). The same content is nothing (C7).
//
//   - a live directory is told of each look at its secret, and gets at once what a read has found (live.go, C15); what is being
//     read in one is polled each second;
//
//   - what only the pull of the task's image made use of is given back once the image is there (pull.go);
//
//   - what the task's policies grant, where the job asks for that, is discovered again (policies.go): more is
//     added, less is removed. What of it cannot be fetched, or does not fit, keeps no task from starting
//     (grants.go) and does nothing to one that runs.
//
// A credential that has ended before it could be replaced is an event (ended.go), and so is a server that is away (watch.go), which the polls
// of static secrets find out, too (C3). When a server answers again, what waits to be tried again is tried at once, for all tasks (back.go).
//
// A panic ends the watch over its task; it begins anew by the journal (rewatch.go, C14).
//
// Each of these ends in a change (change.go). Changes gather; at the deadline of the strongest a rotation
// (rotation.go) fetches what is new, journals it with its values, publishes, and restarts,
// signals or runs a script; before a restart the old process may finish for a while (serving.go). Only then are the old leases revoked (C2). A crash from the journalling
// on finds the new secrets and applies them again; before it, the task keeps the old ones and what was fetched
// is revoked (E2). While the server is away nothing can be fetched, and so nothing happens (C3).
//
// After each step the loop publishes how the session stands (status.go), which operators see. What they ask for
// (operate.go, operation.go) is done by the loop, too, like any other cause of a change.
//
// End, or Abandon by a later process, makes the journal a pending revocation, which is run until it is
// done, across restarts of the plugin (E1). Recover makes a Session of the journal of a task that runs, and asks
// the server nothing (C4).
//
// What is done is counted (meter.go), each request to a provider around it (requests.go); what metrics say of a task's secrets (gauges.go) is
// published with its status.
//
// # Invariants
//
//   - No lease and no token of ours exists that neither the journal nor a pending revocation names, but for one
//     whose answer was not yet there.
//   - The journal's values are those of its leases: they are written first.
//   - A lease that the task may still use is not revoked.
//   - A start takes nothing that a running task's next rotation needs (room.go, memory.go; S8).
//   - Tokens and values rest in the journal's own files and nowhere else; events, logs and errors have none.
//   - A token of Nomad's or the operator's is never renewed and never revoked.
package lifecycle
