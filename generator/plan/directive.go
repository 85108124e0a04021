package plan

// OldestSystemd is assumed where the version is not known; it is also the
// oldest that is supported.
const OldestSystemd = 249

// directives has those that systemd learnt after OldestSystemd, and when
// (systemd's NEWS): an older one would write a line to the log for each.
var directives = map[string]int{
	// [Unit]
	"AssertCredential":        252,
	"ConditionCPUPressure":    250,
	"ConditionCredential":     252,
	"ConditionIOPressure":     250,
	"ConditionMemoryPressure": 250,
	"DebugInvocation":         257,
	"SurviveFinalKillSignal":  255,
	"WantsMountsFor":          256,

	// [Service]
	"BindLogSockets":                      257,
	"CoredumpReceive":                     255,
	"DelegateSubgroup":                    254,
	"ExitType":                            250,
	"ExtensionDirectories":                251,
	"ExtensionImagePolicy":                254,
	"FileDescriptorStorePreserve":         254,
	"ImportCredential":                    254,
	"LoadCredentialEncrypted":             250,
	"LogFilterPatterns":                   253,
	"ManagedOOMMemoryPressureDurationSec": 257,
	"MemoryKSM":                           254,
	"MemoryPressureThresholdSec":          254,
	"MemoryPressureWatch":                 254,
	"MemoryZSwapMax":                      253,
	"MemoryZSwapWriteback":                256,
	"MountImagePolicy":                    254,
	"NFTSet":                              255,
	"OpenFile":                            253,
	"PrivatePIDs":                         257,
	"RestartMaxDelaySec":                  254,
	"RestartMode":                         254,
	"RestartSteps":                        254,
	"RestrictFileSystems":                 250,
	"RestrictNetworkInterfaces":           250,
	"RootEphemeral":                       254,
	"RootImagePolicy":                     254,
	"SetCredentialEncrypted":              250,
	"SetLoginEnvironment":                 255,
	"StartupAllowedCPUs":                  252,
	"StartupAllowedMemoryNodes":           252,
}
