package machinestatus

import (
	"strings"

	"gpuherd/monitor/state"
)

// workerService is the service whose instances are workers in this form; all
// others are services.
const workerService = "redis-worker"

// setupUnit is there to start the others: that it runs does not make a machine
// of use.
const setupUnit = "shared-setup.service"

// pm2Name is what the unit was called under PM2.
func pm2Name(u state.Unit) string {
	if u.Instance == "" {
		return u.Service
	}
	return u.Service + "-gpu" + u.Instance
}

// running reports whether the unit is up.
func running(u state.Unit) bool {
	switch u.Active {
	case "active", "reloading", "refreshing":
		return true
	}
	return false
}

// starting reports whether the unit comes up. One that waits for its next
// attempt is down.
func starting(u state.Unit) bool { return u.Active == "activating" && !waiting(u) }

func waiting(u state.Unit) bool {
	return u.Active == "activating" && strings.HasPrefix(u.Sub, "auto-restart")
}

// failed reports whether the unit's last run did not end well.
func failed(u state.Unit) bool {
	return u.Active == "failed" || waiting(u) && u.Result != "success"
}

// untouched reports whether nobody has started the unit yet in this boot.
func untouched(u state.Unit) bool { return u.Active == "inactive" && u.InvocationID == "" }

// pm2Status says how the unit is in PM2's words.
func pm2Status(u state.Unit) string {
	switch {
	case running(u):
		return "online"
	case waiting(u):
		return "waiting restart"
	case starting(u):
		return "launching"
	case u.Active == "deactivating":
		return "stopping"
	case u.Active == "failed":
		return "errored"
	}
	return "stopped"
}

// worker returns how a worker is. It may have a job while it drains.
func worker(u state.Unit, lastActivity int64) workerStatus {
	w := workerStatus{Status: "offline", IsConnected: running(u)}
	if lastActivity != 0 {
		w.LastActivity = &lastActivity
	}
	switch {
	case u.Job != "":
		w.Status, w.CurrentJobID = "busy", &u.Job
	case running(u):
		w.Status = "idle"
	case starting(u):
		w.Status = "initializing"
	}
	return w
}

// service returns how a service is.
func service(u state.Unit, place servicePlace) serviceStatus {
	s := serviceStatus{servicePlace: place, Status: "inactive", Health: "unknown", PM2Status: pm2Status(u)}
	switch {
	case running(u):
		s.Status, s.Health = "active", "healthy"
	case failed(u):
		s.Health = "unhealthy"
	}
	return s
}
