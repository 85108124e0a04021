// Package acceptance holds the tests that see gpuherd whole: installed, on a
// real systemd, with a real Redis, jobs and crashes.
//
// Built with the tag `acceptance` it is an ordinary test binary that wants to
// run as root on a host whose PID 1 is systemd, whose Redis listens on
// 127.0.0.1:6379 and whose gpuherd.target is up. It stops workers and Redis,
// so it belongs on a machine that can be thrown away:
//
//	go test -tags acceptance ./packaging/acceptance
//
// Built with the tag `machine` it makes such machines itself (systemd 252 and
// 257, in user-mode-linux and in nspawn), carries the binary into them, runs
// the tests that each machine is for, and fails where one of them did not run:
//
//	go test -tags machine ./packaging/acceptance
//
// Some of these machines have GPUs: a scenario of nvmltest that NVML, sysfs,
// procfs and device nodes tell of, and that tests change while it runs.
//
// Each test leaves the herd as healthy as it found it.
package acceptance
