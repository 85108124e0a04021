package machinestatus

// Channels of Redis. A machine's status is on statusChannel + its id; readers
// PSUBSCRIBE machine:status:*.
const (
	statusChannel  = "machine:status:"
	startupChannel = "machine:startup:events"
)

// Kinds of a status, update_type.
const (
	updateReady    = "machine_ready" // the first since the machine is ready
	updatePeriodic = "periodic"
	updateEvent    = "event_driven" // something changed
	updateShutdown = "shutdown"     // the last
)

// Kinds of a startup event, event_type.
const (
	startupBegin    = "startup_begin"
	startupStep     = "startup_step"
	startupComplete = "startup_complete"
	startupFailed   = "startup_failed"
	startupShutdown = "shutdown"
)

// Phases of a machine.
const (
	phaseStarting = "starting"
	phaseReady    = "ready"
	phaseShutdown = "shutdown"
)

// A statusMessage is what statusChannel carries: all of the machine, each time.
type statusMessage struct {
	MachineID  string    `json:"machine_id"`
	Timestamp  int64     `json:"timestamp"` // unix ms
	UpdateType string    `json:"update_type"`
	Structure  structure `json:"structure"`
	Status     status    `json:"status"`
}

// structure is what there is on the machine.
type structure struct {
	GPUCount int                     `json:"gpu_count"`
	Workers  map[string]workerPlace  `json:"workers"`  // by WORKER_ID
	Services map[string]servicePlace `json:"services"` // by WORKER_ID.SERVICE, or SERVICE where it has no GPU
}

type workerPlace struct {
	WorkerID string   `json:"worker_id"`
	PM2Name  string   `json:"pm2_name"`
	GPUID    *int     `json:"gpu_id"`
	Services []string `json:"services"` // others in its place: of the same GPU, MIG device and number
}

type servicePlace struct {
	WorkerID    string `json:"worker_id,omitempty"` // of its GPU
	ServiceType string `json:"service_type"`
	PM2Name     string `json:"pm2_name"`
}

// status is how it is.
type status struct {
	Machine  machineStatus            `json:"machine"`
	Workers  map[string]workerStatus  `json:"workers"`
	Services map[string]serviceStatus `json:"services"`
}

type machineStatus struct {
	Phase    string `json:"phase"`
	UptimeMS int64  `json:"uptime_ms"`
}

type workerStatus struct {
	IsConnected  bool    `json:"is_connected"`
	Status       string  `json:"status"` // initializing, idle, busy, offline
	CurrentJobID *string `json:"current_job_id"`
	LastActivity *int64  `json:"last_activity"` // unix ms; null: never started
}

type serviceStatus struct {
	servicePlace
	Status    string `json:"status"`     // active, inactive
	Health    string `json:"health"`     // healthy, unhealthy, unknown
	PM2Status string `json:"pm2_status"` // as `pm2 jlist` has it
}

// A startupEvent is what startupChannel carries. Which of the fields below
// MachineConfig there are depends on EventType.
type startupEvent struct {
	WorkerID      string        `json:"worker_id"`
	MachineID     string        `json:"machine_id"`
	EventType     string        `json:"event_type"`
	Timestamp     string        `json:"timestamp"` // as toISOString writes it
	MachineConfig machineConfig `json:"machine_config"`

	StartupTime    int64             `json:"startup_time,omitempty"`          // begin: unix ms
	ElapsedMS      int64             `json:"elapsed_ms,omitempty"`            // step
	StepName       string            `json:"step_name,omitempty"`             // step
	StepData       map[string]string `json:"step_data,omitempty"`             // step
	TotalStartupMS int64             `json:"total_startup_time_ms,omitempty"` // complete, failed
	StepCount      int               `json:"step_count,omitempty"`            // complete, failed
	Error          string            `json:"error,omitempty"`                 // failed
	Reason         string            `json:"reason,omitempty"`                // shutdown
	UptimeMS       int64             `json:"uptime_ms,omitempty"`             // shutdown
}

type machineConfig struct {
	MachineID string   `json:"machine_id"`
	Hostname  string   `json:"hostname"`
	GPUCount  int      `json:"gpu_count"`
	GPUModel  string   `json:"gpu_model,omitempty"`
	GPUMemory uint64   `json:"gpu_memory,omitempty"` // GB of one GPU
	Services  []string `json:"services"`
}
