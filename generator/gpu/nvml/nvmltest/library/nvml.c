/*
 * A libnvidia-ml.so.1 without a driver behind it, as far as gpuherd asks NVML.
 *
 * It answers what a scenario says: the file named by $GPUHERD_FAKE_NVML, or
 * /etc/fake-nvml. The file is read again at every call, so a test changes the
 * machine by replacing it; only which GPUs there are is fixed by nvmlInit_v2,
 * as with NVML. One thing a line:
 *
 *   driver VERSION
 *   init-ms N                     nvmlInit_v2 takes N ms a GPU
 *   gpu pci=0000:17:00.0 minor=0 uuid=GPU-… memory=BYTES [mig=0|1]
 *       [virtualisation=N] [temperature=N] [utilisation=N] [recovery=N]
 *       [events=MASK] [silent=1] [lost=1] name=THE REST OF THE LINE
 *   mig gpu=0 place=0 gi=1 ci=0 memory=BYTES uuid=MIG-… name=THE REST
 *   fail FUNCTION CODE [GPU]      that call returns CODE (for that GPU only)
 *   hang FUNCTION [GPU]           that call returns once the line is gone
 *
 * What a gpu line does not give is not supported by that GPU. No handle can be
 * had of a silent GPU; every call for a lost one, or for one whose line is
 * gone, returns NVML_ERROR_GPU_IS_LOST. gpu= counts gpu lines from 0.
 *
 * Events are lines of a second file, named like the scenario with .events
 * behind it, to which a test appends: GPU TYPE DATA [GI CI]. Those that were
 * there before nvmlEventSetCreate are lost, as with NVML.
 *
 * Between nvmlInit_v2 and nvmlShutdown the scenario is held open, as NVML does
 * with the device nodes.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
	DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15, UNKNOWN = 999,
};
enum { ANY = -1, PLACES = 7, MOST_GPUS = 64, MOST_MIGS = 512, MOST_RULES = 64, MOST_SETS = 8, RECOVERY_ACTION = 230 };
enum { XID_EVENT = 0x8, OLD_EVENTS = 0x1f, RECOVERY_EVENT = 0x8000 };

typedef struct device {
	int used, known;       /* the entry; its line is there */
	struct device *parent; /* of a MIG device */
	int index, place, gi, ci, silent, lost;
	int mig, virtualisation, temperature, utilisation, recovery; /* −1: not supported */
	unsigned domain, bus, dev, minor;
	unsigned long long memory, events;
	char uuid[96], name[96];
} *handle;

typedef struct {
	char legacy[16];
	unsigned domain, bus, device, id, subsystem;
	char bus_id[32];
} pci_info;

typedef struct { unsigned long long total, free, used; } memory_info;
typedef struct { unsigned gpu, memory; } utilization;

typedef struct {
	unsigned field, scope;
	long long timestamp, latency;
	unsigned type, code;
	union { unsigned u; unsigned long long space; } value;
} field_value;

typedef struct event_set {
	int used;
	long offset; /* of the events that were not told yet */
	unsigned long long types[MOST_GPUS];
} *event_set;

typedef struct {
	handle device;
	unsigned long long type, data;
	unsigned gi, ci;
} event_data;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct device gpus[MOST_GPUS], migs[MOST_MIGS];
static handle opened[MOST_GPUS], listed[MOST_GPUS];
static struct { char function[64]; int hang, code, gpu; } rules[MOST_RULES];
static struct event_set sets[MOST_SETS];
static int n_opened, n_listed, n_rules, started, init_ms, held = -1;
static char driver[80];

static void nap(int ms) {
	struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
	nanosleep(&t, NULL);
}

static const char *scenario(void) {
	const char *path = getenv("GPUHERD_FAKE_NVML");
	return path ? path : "/etc/fake-nvml";
}

/* text copies the value of a key, up to a space, or whole where it is a name. */
static void text(const char *line, const char *key, char *to, size_t size) {
	char pattern[32];
	snprintf(pattern, sizeof pattern, " %s=", key);
	const char *at = strstr(line, pattern);
	at = at ? at + strlen(pattern) : "";
	size_t length = strcmp(key, "name") ? strcspn(at, " ") : strlen(at);
	snprintf(to, size, "%.*s", (int)length, at);
}

static long long number(const char *line, const char *key, long long otherwise) {
	char value[32];
	text(line, key, value, sizeof value);
	return *value ? strtoll(value, NULL, 0) : otherwise;
}

static void read_gpu(const char *line) {
	unsigned domain, bus, dev;
	char pci[32];
	text(line, "pci", pci, sizeof pci);
	if (sscanf(pci, "%x:%x:%x.", &domain, &bus, &dev) != 3)
		return;
	handle d = gpus;
	/* The same address is the same GPU, so handles of it stay good. */
	while (d < gpus + MOST_GPUS && d->used && (d->domain != domain || d->bus != bus || d->dev != dev))
		d++;
	if (d == gpus + MOST_GPUS || n_listed == MOST_GPUS)
		return;
	d->used = d->known = 1;
	d->domain = domain, d->bus = bus, d->dev = dev;
	text(line, "uuid", d->uuid, sizeof d->uuid);
	text(line, "name", d->name, sizeof d->name);
	d->minor = number(line, "minor", 0);
	d->memory = number(line, "memory", 0);
	d->silent = number(line, "silent", 0);
	d->lost = number(line, "lost", 0);
	d->mig = number(line, "mig", -1);
	d->virtualisation = number(line, "virtualisation", -1);
	d->temperature = number(line, "temperature", -1);
	d->utilisation = number(line, "utilisation", -1);
	d->recovery = number(line, "recovery", -1);
	d->events = number(line, "events", OLD_EVENTS | (d->recovery < 0 ? 0 : RECOVERY_EVENT));
	listed[n_listed++] = d;
}

static void read_mig(const char *line) {
	char uuid[96];
	int gpu = number(line, "gpu", -1);
	text(line, "uuid", uuid, sizeof uuid);
	if (gpu < 0 || gpu >= n_listed || !*uuid)
		return;
	handle d = migs;
	while (d < migs + MOST_MIGS && d->used && strcmp(d->uuid, uuid))
		d++;
	if (d == migs + MOST_MIGS)
		return;
	d->used = d->known = 1;
	d->parent = listed[gpu];
	d->index = d->parent->index;
	snprintf(d->uuid, sizeof d->uuid, "%s", uuid);
	text(line, "name", d->name, sizeof d->name);
	d->place = number(line, "place", 0);
	d->gi = number(line, "gi", 0);
	d->ci = number(line, "ci", 0);
	d->memory = number(line, "memory", 0);
}

/* read_scenario brings all to what the file says now. Without one there is no driver. */
static int read_scenario(void) {
	char line[512];
	FILE *f = fopen(scenario(), "re");
	n_listed = n_rules = init_ms = 0;
	snprintf(driver, sizeof driver, "550.54.15");
	for (int i = 0; i < MOST_GPUS; i++)
		gpus[i].known = 0;
	for (int i = 0; i < MOST_MIGS; i++)
		migs[i].known = 0;
	while (f && fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "gpu ", 4))
			read_gpu(line);
		else if (!strncmp(line, "mig ", 4))
			read_mig(line);
		else if (sscanf(line, "driver %79s", driver) == 1 || sscanf(line, "init-ms %d", &init_ms) == 1)
			continue;
		else if (n_rules < MOST_RULES) {
			__typeof__(rules[0]) *r = &rules[n_rules];
			r->gpu = ANY;
			r->hang = sscanf(line, "hang %63s %d", r->function, &r->gpu) >= 1;
			if (r->hang || sscanf(line, "fail %63s %d %d", r->function, &r->code, &r->gpu) >= 2)
				n_rules++;
		}
	}
	if (!f)
		return DRIVER_NOT_LOADED;
	fclose(f);
	return SUCCESS;
}

static void leave(int *unused) {
	(void)unused;
	pthread_mutex_unlock(&mutex);
}

/* enter locks, and returns why the call fails. */
static int enter(const char *function, int gpu) {
	for (;;) {
		int hangs = 0;
		pthread_mutex_lock(&mutex);
		int code = read_scenario();
		for (int i = 0; i < n_rules; i++) {
			if (strcmp(rules[i].function, function) || (rules[i].gpu != ANY && rules[i].gpu != gpu))
				continue;
			if (rules[i].hang)
				hangs = 1;
			else if (!code)
				code = rules[i].code;
		}
		if (!hangs)
			return code;
		pthread_mutex_unlock(&mutex);
		nap(2);
	}
}

/* gone returns why nothing is told of a device. */
static int gone(handle d) {
	handle gpu = d->parent ? d->parent : d;
	if (!gpu->known || gpu->lost)
		return GPU_IS_LOST;
	return d->known ? SUCCESS : INVALID_ARGUMENT;
}

/* CALL is the beginning of every function; its end unlocks. */
#define CALL(gpu) \
	__attribute__((cleanup(leave))) int code = enter(__func__, (gpu)); \
	if (!code && !started) \
		code = UNINITIALIZED; \
	if (code) \
		return code

#define CALL_DEVICE(d) \
	CALL((d)->index); \
	if ((code = gone(d))) \
		return code

int nvmlInit_v2(void) {
	int code = enter(__func__, ANY), wait = init_ms * n_listed;
	if (!code && wait) {
		leave(NULL);
		nap(wait);
		code = enter("", ANY);
	}
	if (!code && !started++) {
		n_opened = n_listed;
		memcpy(opened, listed, sizeof opened);
		for (int i = 0; i < n_opened; i++)
			opened[i]->index = i;
		memset(sets, 0, sizeof sets);
		held = open(scenario(), O_RDONLY | O_CLOEXEC);
	}
	leave(NULL);
	return code;
}

int nvmlShutdown(void) {
	CALL(ANY);
	if (!--started && held >= 0) {
		close(held);
		held = -1;
	}
	return SUCCESS;
}

const char *nvmlErrorString(int code) {
	static __thread char number[32];
	switch (code) {
	case SUCCESS: return "The operation was successful";
	case UNINITIALIZED: return "Uninitialized";
	case INVALID_ARGUMENT: return "Invalid Argument";
	case NOT_SUPPORTED: return "Not Supported";
	case DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case TIMEOUT: return "Timeout";
	case GPU_IS_LOST: return "GPU is lost";
	case UNKNOWN: return "Unknown Error";
	}
	snprintf(number, sizeof number, "error %d", code);
	return number;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
	CALL(ANY);
	snprintf(version, length, "%s", driver);
	return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
	CALL(ANY);
	*count = n_opened;
	return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *h) {
	CALL((int)index);
	if ((int)index >= n_opened)
		return INVALID_ARGUMENT;
	if ((code = gone(opened[index])))
		return code;
	if (opened[index]->silent)
		return UNKNOWN;
	*h = opened[index];
	return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(handle h, pci_info *info) {
	CALL_DEVICE(h);
	memset(info, 0, sizeof *info);
	info->domain = h->domain;
	info->bus = h->bus;
	info->device = h->dev;
	snprintf(info->legacy, sizeof info->legacy, "%04X:%02X:%02X.0", h->domain & 0xffff, h->bus & 0xff, h->dev & 0xff);
	snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", h->domain, h->bus & 0xff, h->dev & 0xff);
	return SUCCESS;
}

static int copy(const char *from, char *to, unsigned length) {
	if (strlen(from) >= length)
		return INSUFFICIENT_SIZE;
	strcpy(to, from);
	return SUCCESS;
}

int nvmlDeviceGetUUID(handle h, char *uuid, unsigned length) {
	CALL_DEVICE(h);
	return copy(h->uuid, uuid, length);
}

int nvmlDeviceGetName(handle h, char *name, unsigned length) {
	CALL_DEVICE(h);
	return copy(h->name, name, length);
}

int nvmlDeviceGetMinorNumber(handle h, unsigned *minor) {
	CALL_DEVICE(h);
	*minor = h->minor;
	return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(handle h, memory_info *info) {
	CALL_DEVICE(h);
	info->total = info->free = h->memory;
	info->used = 0;
	return SUCCESS;
}

static int tell(int value, unsigned *to) {
	if (value < 0)
		return NOT_SUPPORTED;
	*to = value;
	return SUCCESS;
}

int nvmlDeviceGetVirtualizationMode(handle h, unsigned *mode) {
	CALL_DEVICE(h);
	return tell(h->virtualisation, mode);
}

int nvmlDeviceGetTemperature(handle h, unsigned sensor, unsigned *celsius) {
	CALL_DEVICE(h);
	return sensor ? INVALID_ARGUMENT : tell(h->temperature, celsius);
}

int nvmlDeviceGetUtilizationRates(handle h, utilization *rates) {
	CALL_DEVICE(h);
	rates->memory = 0;
	return tell(h->utilisation, &rates->gpu);
}

int nvmlDeviceGetFieldValues(handle h, int count, field_value *values) {
	CALL_DEVICE(h);
	for (int i = 0; i < count; i++) {
		field_value *v = &values[i];
		v->timestamp = v->latency = 0;
		v->type = 1; /* unsigned int */
		v->value.space = 0;
		v->code = v->field == RECOVERY_ACTION ? tell(h->recovery, &v->value.u) : NOT_SUPPORTED;
	}
	return SUCCESS;
}

int nvmlDeviceGetMigMode(handle h, unsigned *current, unsigned *pending) {
	CALL_DEVICE(h);
	code = tell(h->mig, current);
	*pending = *current;
	return code;
}

int nvmlDeviceGetMaxMigDeviceCount(handle h, unsigned *count) {
	CALL_DEVICE(h);
	*count = PLACES;
	return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(handle h, unsigned place, handle *mig) {
	CALL_DEVICE(h);
	for (int i = 0; i < MOST_MIGS; i++)
		if (migs[i].known && migs[i].parent == h && migs[i].place == (int)place) {
			*mig = &migs[i];
			return SUCCESS;
		}
	return NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(handle h, unsigned *id) {
	CALL_DEVICE(h);
	*id = h->gi;
	return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(handle h, unsigned *id) {
	CALL_DEVICE(h);
	*id = h->ci;
	return SUCCESS;
}

static FILE *open_events(void) {
	char path[512];
	snprintf(path, sizeof path, "%s.events", scenario());
	return fopen(path, "re");
}

int nvmlEventSetCreate(event_set *set) {
	CALL(ANY);
	for (int i = 0; i < MOST_SETS; i++) {
		if (sets[i].used)
			continue;
		memset(&sets[i], 0, sizeof sets[i]);
		sets[i].used = 1;
		FILE *f = open_events();
		if (f) {
			fseek(f, 0, SEEK_END);
			sets[i].offset = ftell(f);
			fclose(f);
		}
		*set = &sets[i];
		return SUCCESS;
	}
	return UNKNOWN;
}

int nvmlEventSetFree(event_set set) {
	CALL(ANY);
	set->used = 0;
	return SUCCESS;
}

int nvmlDeviceGetSupportedEventTypes(handle h, unsigned long long *types) {
	CALL_DEVICE(h);
	*types = h->events;
	return SUCCESS;
}

int nvmlDeviceRegisterEvents(handle h, unsigned long long types, event_set set) {
	CALL_DEVICE(h);
	if (types & ~h->events)
		return NOT_SUPPORTED;
	set->types[h->index] |= types;
	return SUCCESS;
}

/* next_event finds the next event that the set is registered for. */
static int next_event(event_set set, event_data *data) {
	char line[128];
	int found = 0;
	FILE *f = open_events();
	if (!f)
		return 0;
	fseek(f, set->offset, SEEK_SET);
	while (!found && fgets(line, sizeof line, f) && strchr(line, '\n')) {
		unsigned gpu;
		set->offset = ftell(f);
		memset(data, 0, sizeof *data);
		data->gi = data->ci = 0xffffffff;
		if (sscanf(line, "%u %lli %llu %u %u", &gpu, (long long *)&data->type, &data->data, &data->gi, &data->ci) < 3 || (int)gpu >= n_opened)
			continue;
		data->device = opened[gpu];
		found = (set->types[gpu] & data->type) != 0;
	}
	fclose(f);
	return found;
}

/* When a GPU of the set is lost NVML says so instead of waiting. */
static int wait_once(event_set set, event_data *data) {
	__attribute__((cleanup(leave))) int code = enter("nvmlEventSetWait_v2", ANY);
	if (code)
		return code;
	if (next_event(set, data))
		return SUCCESS;
	for (int i = 0; i < n_opened; i++)
		if (set->types[i] && gone(opened[i]))
			return GPU_IS_LOST;
	return TIMEOUT;
}

int nvmlEventSetWait_v2(event_set set, event_data *data, unsigned timeout_ms) {
	for (unsigned waited = 0;; waited += 5) {
		int code = wait_once(set, data);
		if (code != TIMEOUT || waited >= timeout_ms)
			return code;
		nap(5);
	}
}
