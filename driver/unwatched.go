package driver

import (
	"errors"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// unwatched are the tasks that run on although their journal cannot be used. At their end what can be revoked of them
// is: their tokens may be readable all the same.
type unwatched struct {
	mu   sync.Mutex
	byID map[string]unwatchedTask // by Nomad's id
}

type unwatchedTask struct {
	keeper *lifecycle.Keeper
	task   lifecycle.Task
}

// add notes a task; keeper is nil where there is no state directory to speak of.
func (u *unwatched) add(keeper *lifecycle.Keeper, t lifecycle.Task) {
	if keeper == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byID == nil {
		u.byID = map[string]unwatchedTask{}
	}
	u.byID[t.ID] = unwatchedTask{keeper, t}
}

// end has revoked what can be of a task that has ended.
func (u *unwatched) end(taskID string, log hclog.Logger) {
	u.mu.Lock()
	t, ok := u.byID[taskID]
	delete(u.byID, taskID)
	u.mu.Unlock()
	if !ok {
		return
	}
	if err := t.keeper.Abandon(t.task); err != nil && !errors.Is(err, lifecycle.ErrNoJournal) {
		log.Error("the leases of a task that was not watched are not revoked: they end by their TTL", "task_id", taskID, "error", err)
	}
}

// all are the tasks.
func (u *unwatched) all() []lifecycle.Task {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []lifecycle.Task
	for _, t := range u.byID {
		all = append(all, t.task)
	}
	return all
}
