// Package statedir makes the plugin's state directory ready (the operator's `state_dir`): a place for what
// must survive the plugin, and must never be on a disk.
//
//	<state_dir>/            root 0711, on any file system
//	  .lock                 held while something below is being made
//	  journal/              root 0700, a tmpfs of its own: credentials
//	    <driver>/           root 0700, one per driver name
//	  shared/               root 0711, a small tmpfs of its own, a shared mount: what tasks get bound
//	    channel/            root 0711, for the launcher's channels
//	    live/               root 0711, for live directories
//
// The two are apart since a container's root with CAP_SYS_ADMIN can remount what is bound into it
// read-write, and fill it.
//
// Others make directories beside them that need no memory: live/, audit/ and status/.
//
// Whoever needs a place calls [Open] first, at each use: it is cheap when all is there, makes what is
// not, and refuses what is not in memory. The plugins of several drivers run at once and share the
// directory: they make it under a lock. The mounts outlive the plugin: the next process finds them, and mounts
// nothing over them. A mount that the operator has made at `journal` or `shared` is used as it is, if it is
// a memory file system.
package statedir
