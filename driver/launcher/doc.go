// Package launcher starts a task's process with secrets that Docker never sees (L1).
//
// What Docker is told about a container ends up in `docker inspect` and on disk. So a container with
// secrets, and every exec in it, is told to run the launcher: a small static program, built from
// launch, embedded here, and bound into the container read-only. One start goes like this:
//
//	path, err := installer.Install()               // the program's file on the host
//	hold, err := launcher.New(secretsDir)          // two FIFOs in the task's secrets tmpfs
//	…create the container with path bound at ContainerPath, and as its entrypoint
//	  ContainerPath and hold.Args("/secrets"); start it: its process waits, with the app's user…
//	uid, gid, err := launcher.OwnerOf(pid)         // who the app will be, as the host sees it
//	…publish files for that owner, the live directory…
//	argv, err := launcher.Command(image, task)     // what Docker would have run
//	err = hold.Release(ctx, launcher.Alive(pid), launcher.Owner{UID: uid, GID: gid},
//	  launcher.Payload{Argv: argv, Env: env})      // nil: the app runs
//	…or hold.Remove() on any failure before that…
//
// What holds:
//   - The FIFOs are root's, mode 0600, until the process waits; then they are its user's, and gone
//     as soon as both ends are open. Whatever the container does to their names, the driver works
//     on the FIFOs that it made, and only on them.
//   - Nothing waits for ever: the launcher ends after Bound, and when its FIFOs vanish; Release ends
//     with its context, after Bound, and when alive says that the process is gone.
//   - The process that the launcher becomes has the limits, signals, file descriptors, working
//     directory, user and standard streams that Docker gave it.
//   - A container keeps the launcher it was started with. The version that it says it speaks decides
//     what is said to it, so that a plugin can be upgraded under running tasks.
package launcher
