// Package live feeds the file server, the process that serves live directories (C15; package server).
//
// A live directory is a FUSE directory with a file for each field of a secret: always current, read-only, and listing
// nothing. One goes through this package so:
//
//	feeder := live.Open(live.Config{…})                 // no file server is needed yet
//	source, err := feeder.Declare(ctx, live.Directory{Name: id, …})  // starts it, the first time
//	err = feeder.Set(ctx, id, fields, time.Now())
//	err = live.Place(source, target)                    // a bind mount, over whatever is there
//	…feeder.Set or feeder.Fresh after each look at the secrets server; Config.Want and Config.Reads say when to look…
//	err = live.Clear(target)
//	err = feeder.Withdraw(ctx, id)
//	feeder.Close()                                      // the file server goes on
//
// What is placed where is the user's, who is told (Config.Healed) when a new file server has taken the place of a dead one:
// then the same Place puts the new directory over the dead mount. Nothing is unmounted for that: programs in containers
// find the new one at once, by path.
//
// What holds:
//   - The feeder keeps what it declared and set, so that a new file server has all of it before anything is placed.
//   - A file server that does not answer for a second is killed, and not one that waits for a feeder which has no time itself. Nothing
//     of the feeder waits for its file system.
//   - Several feeders share one file server; a lock decides who starts it. Who starts it is nothing to it: it is in a
//     session and a cgroup of its own, and lives as long as there are directories.
//   - Values travel as secrets.Value, and to the file server apart from all messages.
package live
