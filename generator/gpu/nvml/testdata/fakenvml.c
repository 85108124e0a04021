/*
 * A libnvidia-ml.so.1 without a driver behind it, as far as gpuherd asks NVML.
 * It answers what the file named by GPUHERD_FAKE_NVML says, one thing a line:
 *
 *   driver VERSION
 *   fail FUNCTION CODE [GPU]      that call returns CODE (for that GPU only)
 *   gpu DOMAIN BUS DEVICE MINOR MEMORY MIGMODE UUID NAME...
 *   mig GPU PLACE GI CI MEMORY UUID NAME...
 *
 * -DWITHOUT_xxx leaves a symbol out, as an old driver does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, PLACES = 7 };

typedef struct device {
	struct device *parent; /* of a MIG device */
	int index, place, gi, ci;
	unsigned domain, bus, dev, minor, mig;
	unsigned long long memory;
	char uuid[80], name[96];
} *handle;

typedef struct {
	char legacy[16];
	unsigned domain, bus, device, id, subsystem;
	char bus_id[32];
} pci_info;

typedef struct { unsigned long long total, free, used; } memory_info;

static struct device gpus[16], migs[64];
static struct { char function[64]; int code, gpu; } failures[16];
static int n_gpus, n_migs, n_failures, started;
static char driver[80] = "550.54.15";

__attribute__((unused)) static void load(void) {
	const char *path = getenv("GPUHERD_FAKE_NVML");
	FILE *f = path ? fopen(path, "r") : NULL;
	char line[512];
	n_gpus = n_migs = n_failures = 0;
	while (f && fgets(line, sizeof line, f)) {
		struct device d = {0};
		int gpu, end = 0;
		line[strcspn(line, "\n")] = 0;
		if (sscanf(line, "driver %79s", driver) == 1)
			continue;
		failures[n_failures].gpu = -1;
		if (sscanf(line, "fail %63s %d %d", failures[n_failures].function, &failures[n_failures].code, &failures[n_failures].gpu) >= 2) {
			n_failures++;
			continue;
		}
		if (sscanf(line, "gpu %x %x %x %u %llu %u %79s %n", &d.domain, &d.bus, &d.dev, &d.minor, &d.memory, &d.mig, d.uuid, &end) == 7 && end) {
			d.index = n_gpus;
			snprintf(d.name, sizeof d.name, "%s", line + end);
			gpus[n_gpus++] = d;
			continue;
		}
		if (sscanf(line, "mig %d %d %d %d %llu %79s %n", &gpu, &d.place, &d.gi, &d.ci, &d.memory, d.uuid, &end) == 6 && end) {
			d.parent = &gpus[gpu];
			d.index = gpu;
			snprintf(d.name, sizeof d.name, "%s", line + end);
			migs[n_migs++] = d;
		}
	}
	if (f)
		fclose(f);
}

static int failure(const char *function, int gpu) {
	for (int i = 0; i < n_failures; i++)
		if (!strcmp(failures[i].function, function) && (failures[i].gpu < 0 || failures[i].gpu == gpu))
			return failures[i].code;
	return SUCCESS;
}

#define CHECK(gpu) do { \
	int code = failure(__func__, (gpu)); \
	if (code) return code; \
	if (!started) return UNINITIALIZED; \
} while (0)

#ifndef WITHOUT_INIT
int nvmlInit_v2(void) {
	load();
	int code = failure(__func__, -1);
	if (!code)
		started++;
	return code;
}
#endif

int nvmlShutdown(void) { CHECK(-1); started--; return SUCCESS; }

const char *nvmlErrorString(int code) {
	static char text[32];
	if (code == 9)
		return "Driver Not Loaded";
	if (code == 15)
		return "GPU is lost";
	snprintf(text, sizeof text, "error %d", code);
	return text;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
	CHECK(-1);
	snprintf(version, length, "%s", driver);
	return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) { CHECK(-1); *count = n_gpus; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *h) {
	CHECK((int)index);
	if ((int)index >= n_gpus)
		return INVALID_ARGUMENT;
	*h = &gpus[index];
	return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(handle h, pci_info *info) {
	CHECK(h->index);
	memset(info, 0, sizeof *info);
	info->domain = h->domain;
	info->bus = h->bus;
	info->device = h->dev;
	snprintf(info->legacy, sizeof info->legacy, "%04X:%02X:%02X.0", h->domain & 0xffff, h->bus & 0xff, h->dev & 0xff);
	snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", h->domain, h->bus, h->dev);
	return SUCCESS;
}

#ifndef WITHOUT_UUID
int nvmlDeviceGetUUID(handle h, char *uuid, unsigned length) {
	CHECK(h->index);
	snprintf(uuid, length, "%s", h->uuid);
	return SUCCESS;
}
#endif

int nvmlDeviceGetMinorNumber(handle h, unsigned *minor) { CHECK(h->index); *minor = h->minor; return SUCCESS; }

int nvmlDeviceGetName(handle h, char *name, unsigned length) {
	CHECK(h->index);
	snprintf(name, length, "%s", h->name);
	return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(handle h, memory_info *info) {
	CHECK(h->index);
	info->total = info->free = h->memory;
	info->used = 0;
	return SUCCESS;
}

#ifndef WITHOUT_MIG
int nvmlDeviceGetMigMode(handle h, unsigned *current, unsigned *pending) {
	CHECK(h->index);
	if (h->mig > 1)
		return NOT_SUPPORTED;
	*current = *pending = h->mig;
	return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(handle h, unsigned *count) { CHECK(h->index); *count = PLACES; return SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(handle h, unsigned place, handle *mig) {
	CHECK(h->index);
	for (int i = 0; i < n_migs; i++)
		if (migs[i].parent == h && migs[i].place == (int)place) {
			*mig = &migs[i];
			return SUCCESS;
		}
	return NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(handle h, unsigned *id) { CHECK(h->index); *id = h->gi; return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(handle h, unsigned *id) { CHECK(h->index); *id = h->ci; return SUCCESS; }
#endif
