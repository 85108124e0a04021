package comfytest

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A class is a kind of node.
type class struct {
	output   bool
	required []string
	choices  map[string][]string // of an input
	run      func(x *execution, id string, inputs map[string]any) (ui map[string]any, err error)
}

// classes are the nodes there are. Those named Test… are no ComfyUI's:
//
//	TestHold   {steps, images}    takes a step when Server.Release allows it, and looks for interrupts
//	TestStuck  {images}           as one step of TestHold, but looks for no interrupt
//	TestFail   {type, message}    raises
//	TestText   {bytes}            shows a text of that length
var classes = map[string]class{
	"CheckpointLoaderSimple": {
		required: []string{"ckpt_name"}, choices: map[string][]string{"ckpt_name": {"sd15.safetensors", "sdxl.safetensors"}},
		run: nothing,
	},
	"CLIPTextEncode":   {required: []string{"text", "clip"}, run: nothing},
	"EmptyLatentImage": {required: []string{"width", "height", "batch_size"}, run: nothing},
	"VAEDecode":        {required: []string{"samples", "vae"}, run: nothing},
	"KSampler": {
		required: []string{"model", "steps", "seed"},
		run: func(x *execution, id string, inputs map[string]any) (map[string]any, error) {
			return nil, x.steps(id, inputs, func() error { return x.interrupted() })
		},
	},
	"SaveImage": {
		output: true, required: []string{"images", "filename_prefix"},
		run: func(_ *execution, _ string, inputs map[string]any) (map[string]any, error) {
			return map[string]any{"images": []any{
				map[string]any{"filename": fmt.Sprint(inputs["filename_prefix"], "_00001_.png"), "subfolder": "", "type": "output"},
			}}, nil
		},
	},
	"TestHold": {
		required: []string{"steps"},
		run: func(x *execution, id string, inputs map[string]any) (map[string]any, error) {
			return nil, x.steps(id, inputs, func() error { return x.hold(true) })
		},
	},
	"TestStuck": {
		run: func(x *execution, _ string, _ map[string]any) (map[string]any, error) { return nil, x.hold(false) },
	},
	"TestFail": {
		output: true, required: []string{"type", "message"},
		run: func(_ *execution, _ string, inputs map[string]any) (map[string]any, error) {
			return nil, &raised{fmt.Sprint(inputs["type"]), fmt.Sprint(inputs["message"])}
		},
	},
	"TestText": {
		output: true, required: []string{"bytes"},
		run: func(_ *execution, _ string, inputs map[string]any) (map[string]any, error) {
			n, _ := inputs["bytes"].(float64)
			return map[string]any{"text": []string{strings.Repeat("x", int(n))}}, nil
		},
	},
}

func nothing(*execution, string, map[string]any) (map[string]any, error) { return nil, nil }

// check is validate_inputs.
func (c class) check(inputs map[string]any) []problem {
	var found []problem
	for _, name := range c.required {
		if _, ok := inputs[name]; !ok {
			found = append(found, problem{"required_input_missing", "Required input is missing", name, map[string]any{"input_name": name}})
		}
	}
	for name, choices := range c.choices {
		if value, ok := inputs[name]; ok && !slices.Contains(choices, fmt.Sprint(value)) {
			found = append(found, problem{
				"value_not_in_list", "Value not in list", fmt.Sprintf("%s: '%v' not in %q", name, value, choices),
				map[string]any{"input_name": name, "received_value": value},
			})
		}
	}
	return found
}

// steps tells of its progress, with a picture for each step as samplers send.
func (x *execution) steps(id string, inputs map[string]any, step func() error) error {
	n, _ := inputs["steps"].(float64)
	preview := binary.BigEndian.AppendUint32(nil, 1) // PREVIEW_IMAGE
	preview = binary.BigEndian.AppendUint32(preview, 1)
	preview = append(preview, make([]byte, 100<<10)...)
	for i := 1.0; i <= n; i++ {
		if x.ctx.Err() != nil {
			return errKilled
		}
		if err := step(); err != nil {
			return err
		}
		x.progress(id, "running", i, n)
		x.tell("progress", map[string]any{"value": i, "max": n, "prompt_id": x.item.id, "node": id}, x.item.client)
		x.tell("", preview, x.item.client)
	}
	return nil
}

// hold waits for Server.Release.
func (x *execution) hold(interruptible bool) error {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	interrupted := make(chan error, 1)
	go func() {
		defer close(interrupted)
		t := time.NewTicker(2 * time.Millisecond)
		defer t.Stop()
		for interruptible {
			if err := x.interrupted(); err != nil {
				interrupted <- err
				cancel()
				return
			}
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	err := x.step(ctx)
	cancel()
	switch stop := <-interrupted; {
	case x.ctx.Err() != nil:
		return errKilled
	case stop != nil:
		return stop
	}
	return err
}
