package service

import (
	"fmt"
	"slices"
	"strings"

	"gpuherd/generator/unitfile"
)

// usual are the keys of systemd that service files have most. They are there
// to recognise a typo, not to say what systemd knows: that changes with each
// version.
var usual = map[string][]string{
	"Unit": strings.Fields(`
		After AllowIsolate AssertPathExists Before BindsTo ConditionFileNotEmpty ConditionHost ConditionPathExists
		ConditionPathIsDirectory ConditionPathIsMountPoint ConditionVirtualization Conflicts DefaultDependencies
		Description Documentation JobTimeoutSec OnFailure OnSuccess PartOf PropagatesReloadTo RefuseManualStart
		RefuseManualStop Requires RequiresMountsFor Requisite SourcePath StartLimitAction StartLimitBurst
		StartLimitIntervalSec StopWhenUnneeded Upholds Wants WantsMountsFor`),
	"Service": strings.Fields(`
		AllowedCPUs AllowedMemoryNodes AmbientCapabilities BindPaths BindReadOnlyPaths BusName CPUAccounting CPUAffinity
		CPUQuota CPUSchedulingPolicy CPUSchedulingPriority CPUWeight CacheDirectory CacheDirectoryMode
		CapabilityBoundingSet ConfigurationDirectory Delegate DeviceAllow DevicePolicy DynamicUser Environment
		EnvironmentFile ExecCondition ExecPaths ExecReload ExecStart ExecStartPost ExecStartPre ExecStop ExecStopPost
		ExitType FileDescriptorStoreMax FinalKillSignal Group GuessMainPID IOSchedulingClass IOSchedulingPriority
		IOWeight IPAccounting IPAddressAllow IPAddressDeny ImportCredential InaccessiblePaths KeyringMode KillMode
		KillSignal LimitAS LimitCORE LimitCPU LimitDATA LimitFSIZE LimitLOCKS LimitMEMLOCK LimitMSGQUEUE LimitNICE
		LimitNOFILE LimitNPROC LimitRSS LimitRTPRIO LimitRTTIME LimitSIGPENDING LimitSTACK LoadCredential
		LoadCredentialEncrypted LockPersonality LogExtraFields LogFilterPatterns LogLevelMax LogNamespace
		LogRateLimitBurst LogRateLimitIntervalSec LogsDirectory LogsDirectoryMode ManagedOOMMemoryPressure
		ManagedOOMMemoryPressureLimit ManagedOOMPreference ManagedOOMSwap MemoryAccounting MemoryDenyWriteExecute
		MemoryHigh MemoryLimit MemoryLow MemoryMax MemoryMin MemorySwapMax MemoryZSwapMax MountAPIVFS MountFlags
		NUMAMask NUMAPolicy NetworkNamespacePath Nice NoExecPaths NoNewPrivileges NonBlocking NotifyAccess
		OOMPolicy OOMScoreAdjust PAMName PIDFile PassEnvironment Personality PrivateDevices PrivateIPC PrivateMounts
		PrivateNetwork PrivateTmp PrivateUsers ProcSubset ProtectClock ProtectControlGroups ProtectHome ProtectHostname
		ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc ProtectSystem ReadOnlyPaths
		ReadWritePaths ReloadSignal RemainAfterExit RemoveIPC Restart RestartForceExitStatus RestartKillSignal
		RestartMaxDelaySec RestartMode RestartPreventExitStatus RestartSec RestartSteps RestrictAddressFamilies
		RestrictNamespaces RestrictRealtime RestrictSUIDSGID RootDirectory RootImage RuntimeDirectory
		RuntimeDirectoryMode RuntimeDirectoryPreserve RuntimeMaxSec SELinuxContext SecureBits SendSIGHUP SendSIGKILL
		SetCredential SetCredentialEncrypted Slice Sockets StandardError StandardInput StandardInputData
		StandardInputText StandardOutput StartupCPUWeight StartupIOWeight StateDirectory StateDirectoryMode
		SuccessExitStatus SupplementaryGroups SyslogFacility SyslogIdentifier SyslogLevel SyslogLevelPrefix
		SystemCallArchitectures SystemCallErrorNumber SystemCallFilter SystemCallLog TTYPath TTYReset TTYVHangup
		TTYVTDisallocate TasksAccounting TasksMax TemporaryFileSystem TimeoutAbortSec TimeoutSec TimeoutStartFailureMode
		TimeoutStartSec TimeoutStopFailureMode TimeoutStopSec TimerSlackNSec Type UMask USBFunctionDescriptors
		USBFunctionStrings UnsetEnvironment User UtmpIdentifier UtmpMode WatchdogSec WatchdogSignal WorkingDirectory`),
}

// alike are keys of systemd that stand near one of usual and are meant.
var alike = strings.Fields(`
	BindTo CacheDirectoryQuota ConfigurationDirectoryMode ExecReloadPost FileDescriptorStorePreserve
	IOAccounting LogsDirectoryQuota ManagedOOMMemoryPressureDurationSec MemoryKSM MemoryTHP MountImages
	PrivateBPF PrivatePIDs PropagateReloadFrom PropagateReloadTo PropagatesStopTo ProtectControlGroupsEx
	StartLimitBurst StartLimitInterval StartupAllowedMemoryNodes StartupBlockIOWeight StartupMemoryZSwapMax
	StateDirectoryQuota TimeoutCleanSec`)

// spelling warns of keys that look like a typo of a usual one: systemd ignores
// those, and the operator believes them set. Of a key that runnable took for a
// misspelt ExecStart= all is said.
func (p *parser) spelling() {
	for _, section := range []string{"Unit", "Service"} {
		known := usual[section]
		for _, e := range p.s.File.Entries(section) {
			if slices.Contains(known, e.Key) || slices.Contains(alike, e.Key) || strings.HasPrefix(e.Key, "X-") ||
				strings.HasPrefix(e.Key, "Condition") || strings.HasPrefix(e.Key, "Assert") || p.told(e) {
				continue
			}
			if near := unitfile.Nearest(e.Key, known); near != "" {
				p.bad(e, "did you mean "+near+"=?", "no usual key of [%s], and systemd ignores what it does not know", section)
				p.problems[len(p.problems)-1].Warning = true
			}
		}
	}
}

// told says whether there is a problem with an assignment already.
func (p *parser) told(e unitfile.Entry) bool {
	return slices.ContainsFunc(p.problems, func(q *unitfile.Problem) bool {
		return q.File == e.File && q.Line == e.Line && q.Key == e.Key
	})
}

// sections reports those that systemd ignores. One that was meant to be
// [X-GPU] breaks the file: without it the service would run on every GPU.
func (p *parser) sections(filtered bool, files []*unitfile.File) {
	known := []string{"Unit", "Service", "Install", Section}
	for _, f := range files {
		for _, s := range f.Sections {
			if slices.Contains(known, s.Name) {
				continue
			}
			near := unitfile.Nearest(s.Name, known)
			if strings.EqualFold(strings.TrimLeft(s.Name, "Xx-_ "), "GPU") {
				near = Section
			}
			if strings.HasPrefix(s.Name, "X-") && near != Section {
				continue // another program's
			}
			problem := &unitfile.Problem{File: f.Name, Line: s.Line, Msg: fmt.Sprintf("unknown section [%s]", short(s.Name))}
			switch near {
			case "":
				problem.Fix = "known are [Unit], [Service], [Install] and [" + Section + "]; systemd ignores others"
			case Section:
				problem.Fix = "did you mean [" + Section + "]?"
				if !filtered {
					p.broken = true
					problem.Fix += " until it is mended the service runs nowhere"
				}
			default:
				problem.Fix = "did you mean [" + near + "]?"
				p.misspelt = p.misspelt || near == "Service"
			}
			p.problems = append(p.problems, problem)
		}
	}
}
