// Package server is the file server: the process that serves all live directories of a node (C15).
//
// It has nothing to do but serve. It knows neither Vault nor Nomad; feeders (the driver's plugins, the volume driver)
// tell it over a unix socket which directories there are and what is in them, and bind them into place. It outlives
// feeders, agents and upgrades, so that their ends take no task's secrets away.
//
//	feeder ──socket──▶ listener ──▶ store ◀── filesystem ◀──/dev/fuse── open("/run/app/password")
//	       ◀─ what was read, and who waits ─┘
//
// The store has the directories, each with the last version of its values; filesystem answers the kernel from it. What is
// decided is in files of its own: which version a process gets (pairs.go), whether a reader waits for a fresh look
// (look.go), what may go (orphans.go), what the kernel is to forget (prune.go).
//
// What holds:
//   - No read waits for a network. It is answered from what is here, at most 200 ms after it came, and at once if no
//     feeder is connected. Few may wait at a time: nobody can make others wait by it.
//   - Nothing is served that no feeder has declared, and no value when its time has passed (EIO, and the value is wiped).
//   - Values live outside Go's heap, locked, wiped when the last reader is gone, and in no dump. No message or log has one.
//   - A directory lists nothing unless it was declared with a listing. Nothing can be written.
//   - What a reader can make grow is bounded: made-up names leave nothing behind, values that are held open only to
//     fill the memory give way to current ones, and a directory's files that the kernel knows are counted (prune.go).
//   - Of values that are not what the secrets server has, since newer ones were refused, nobody says that they are current.
//   - Once its file system is mounted, the process has no capability but to lock memory.
package server
