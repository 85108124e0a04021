// Package machine makes disposable machines with a real systemd as PID 1, for
// tests and for demonstrations. A machine is booted, commands run in it as
// root, and it is thrown away: nothing it writes outlives it.
//
// There are three backends:
//
//   - uml boots a real Linux kernel as a process (user-mode-linux), with
//     cgroup v2, the OOM killer and device rules of its own. It enforces every
//     limit, and is slow at starting processes.
//   - nspawn boots a container on the host's kernel at native speed. What it
//     enforces depends on the host: with cgroup v1 there, no limit binds.
//   - host is the machine the program runs on, which must have systemd as its
//     PID 1 already. Nothing is booted, installed or undone.
//
// uml and nspawn boot the same Debian root file system, made by mmdebstrap, once
// for each suite and list of packages, and kept under the user's cache folder by
// the hash of all that shapes it. Each machine writes to a copy-on-write layer of
// its own. nspawn takes any other as [Config.Root], such as [EnsureTree] makes.
// What is to be tested comes in as [Config.Trees], laid over the root
// before systemd starts, so that generators in it run at boot. [Config.Early]
// can mount hardware that is not there before they do.
//
// A small agent in the machine (guest/agent) takes commands from a folder that
// host and machine share, and leaves their output and exit status there.
//
// The processes of a machine live in a PID namespace whose first process dies
// with the program that booted the machine, and its mounts in a mount
// namespace: not even a SIGKILL leaves anything running or mounted.
//
// Everything but the host backend needs root, and the Debian packages that
// install-dependencies in this folder installs.
package machine
