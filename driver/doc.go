// Package driver is a Nomad task driver that decorates Nomad's own docker or raw_exec driver with
// the life of secrets. It is the only package that knows Nomad.
//
// A task without secrets is the inner driver's alone: its calls pass through, and nothing here
// knows of it. A task with secrets is a [task]: to Nomad one process under one id, to the inner
// driver one process after another under that id.
//
// Every start and recovery under the inner driver is guarded first (package guard): the inner driver is older
// than the agents that load us, and what newer ones refuse, to tasks without secrets too, is refused by us.
//
// # One task's way
//
// StartTask checks the job's configuration (secrets.Compile), removes what an earlier start left, makes
// private/ root's own and the secrets directory a tmpfs (L3), opens a lifecycle.Session, which
// fetches and renders (S1), and has a runner start the process:
//
//   - processes (raw_exec) publishes the files, then starts the process with the environment; the
//     executor is told it over a socket, so it is on no disk.
//   - containers (docker) starts the container as a launcher, which waits at a FIFO in the task's
//     channel; it sees which user waits, publishes the files as that user's, and hands over the command that Docker would
//     have run and the environment (L1).
//
// Nomad gets the inner driver's own handle, scrubbed (L2). From then on the session watches, and
// calls the task, which is its lifecycle.Host, when secrets change.
//
// # Live directories (C15)
//
// The task's are declared to the file server (package live) when its user is known, given what the session has, and placed below
// state_dir: there the container has a bind mount of them, and raw_exec's secrets directory a link to them. Later the session tells what
// it finds, and liveDirs delivers it; the file server tells who reads, which has the session look. At recovery they are declared again,
// and when the file server was replaced, placed again. What fails of that is tried again until the task ends; what the file server
// refuses, with the next look.
//
// # Restarts in place (C8)
//
// Restart stops, destroys and starts under the inner driver while WaitTask stays blocked, because
// it waits for the task and not for a process. Calls that come meanwhile wait. StopTask
// cancels the restart at whatever step it is. Before all that a job may let the old process finish (prestop.go): it is
// the task's until then, and calls go on to it. The log FIFOs are held open from the first process to
// the task's end, for Nomad's log collector stops for good when a FIFO's last writer is gone.
//
// # What is kept for recovery
//
// Nomad keeps the first process's handle only, so the journal has the current one, with the
// wrapped driver's config (record). RecoverTask goes by the journal (C4); without one, the task is
// the inner driver's.
//
// A crash in the midst of a restart in place leaves the session with a change that was not
// applied, so it restarts it again: the task is recovered as one in a restart. Only where there was no
// process at all, and so nobody who kept the log FIFOs, does Nomad restart it.
//
// # Limits of the plugin boundary
//
// Capabilities.MountConfigs and DisableLogCollection, and TaskConfig.ParentJobID, do not cross it:
// raw_exec refuses mounts by itself; with disable_log_collection Nomad still starts its log
// collector; and the docker label parent_job_id is not set.
package driver
