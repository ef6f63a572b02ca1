// Package launcher starts a task's process with secrets that Docker never sees (L1).
//
// What Docker is told about a container ends up in `docker inspect` and on disk. So a container with
// secrets, and every exec in it, is told to run the launcher: a small static program, built from
// launch, embedded here, and bound into the container read-only. One start goes like this:
//
//	channel := launcher.ChannelOf(dir, alloc, task)
//	err = channel.Make()                           // a directory that only root can write to
//	files, err := installer.FilesFor(channel)      // the program's file on the host, for this container alone
//	hold, err := launcher.New(channel.Path())      // two FIFOs in it
//	…create the container with files.Launcher bound at ContainerPath and the channel at ContainerChannel, both
//	  read-only, and as its entrypoint ContainerPath and hold.Args(ContainerChannel); start it: its
//	  process waits, with the app's user…
//	owner, err := hold.WaitingOwner(ctx, pid)      // who the app will be, as the host sees it
//	…publish files for that owner, the live directory…
//	argv, err := launcher.Command(image, task)     // what Docker would have run
//	err = hold.Release(ctx, launcher.Alive(pid), owner,
//	  launcher.Payload{Argv: argv, Env: env})      // nil: the app runs
//	…or hold.Remove() on any failure before that, and channel.Remove() and installer.RemoveFiles(channel) with the task…
//
// What holds:
//   - The channel is out of the task's reach: root's, 0711, and read-only in the container. Its FIFOs
//     are root's until the process waits; then they are its user's, one to read and one to write, and
//     gone as soon as both ends are open. The driver works on the FIFOs that it made, by descriptors.
//   - The launcher makes sure of that for itself: it runs nothing that did not come by a FIFO of its own
//     user's, with no other name, in a directory where nobody else can put any.
//   - What a container has bound is its own, the launcher's file, too: a container's root with CAP_SYS_ADMIN can make it
//     writable, and then is the only one who runs what it wrote. Its next container has new files.
//   - Nothing waits for ever: the launcher ends after Bound, and when its FIFOs vanish; Release ends
//     with its context, after Bound, and when alive says that the process is gone.
//   - The process that the launcher becomes has the limits, signals, file descriptors, working
//     directory, user and standard streams that Docker gave it.
//   - A container keeps the launcher it was started with, and is told things in that one's words, so that a
//     plugin can be upgraded under running tasks. Those of plugins up to 0.2.0 have one file in common until they are
//     restarted; nothing else uses it any more. One of before channels has its FIFOs in the secrets
//     directory, which is root's and sticky by then (NewInSecrets).
package launcher
