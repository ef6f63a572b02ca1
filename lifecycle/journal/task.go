package journal

// Task says which task a journal, and a session, is for.
type Task struct {
	Driver  string // the name this plugin serves: "docker", "raw_exec-secrets", …
	AllocID string
	Name    string
	ID      string // Nomad's id of this start of the task
	// Namespace and JobID are the job's: whose turn it is, where tenants share something (C11).
	Namespace, JobID string
	Group            string // the job's task group; empty: an older version wrote it
	AllocIndex       int
	Dir              string // the task directory on the host
	// UID is of the job's `user` on the host, whom Nomad gives the identity's JWT; 0 if there is none.
	UID int
}

// TaskKey names a task as the journal does: a task's next start takes the place of the one before.
type TaskKey struct{ alloc, task string }

// Key is the task's.
func (t Task) Key() TaskKey { return TaskKey{t.AllocID, t.Name} }
