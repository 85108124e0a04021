package comfytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A workflowNode is one of a workflow in the API format.
type workflowNode struct {
	Class  *string        `json:"class_type"`
	Inputs map[string]any `json:"inputs"`
}

// link returns the node that an input comes from.
func link(input any) (node string, ok bool) {
	pair, ok := input.([]any)
	if !ok || len(pair) != 2 {
		return "", false
	}
	node, ok = pair[0].(string)
	return node, ok
}

// A problem is one thing wrong with a prompt.
type problem struct {
	Type    string         `json:"type"`
	Message string         `json:"message"`
	Details string         `json:"details"`
	Extra   map[string]any `json:"extra_info"`
}

type nodeProblem struct {
	Errors  []problem `json:"errors"`
	Outputs []string  `json:"dependent_outputs"`
	Class   string    `json:"class_type"`
}

// validate is validate_prompt: what output nodes can be executed.
func validate(workflow map[string]*workflowNode) (outputs []string, failure *problem, nodeErrors map[string]*nodeProblem) {
	nodeErrors = map[string]*nodeProblem{}
	ids := slices.Sorted(maps.Keys(workflow))
	var candidates []string
	for _, id := range ids {
		n := workflow[id]
		if n == nil || n.Class == nil {
			return nil, &problem{
				"missing_node_type", fmt.Sprintf("Node 'ID #%s' has no class_type. The workflow may be corrupted or a custom node is missing.", id),
				fmt.Sprintf("Node ID '#%s'", id), map[string]any{"node_id": id, "class_type": nil},
			}, nodeErrors
		}
		class, ok := classes[*n.Class]
		if !ok {
			return nil, &problem{
				"missing_node_type", fmt.Sprintf("Node '%s' not found. The custom node may not be installed.", *n.Class),
				fmt.Sprintf("Node ID '#%s'", id), map[string]any{"node_id": id, "class_type": *n.Class},
			}, nodeErrors
		}
		if class.output {
			candidates = append(candidates, id)
		}
	}
	if len(candidates) == 0 {
		return nil, &problem{"prompt_no_outputs", "Prompt has no outputs", "", map[string]any{}}, nodeErrors
	}
	var all []string
	for _, output := range candidates {
		good := true
		for _, id := range append(upstream(workflow, output), output) {
			n := workflow[id]
			found := classes[*n.Class].check(n.Inputs)
			if len(found) == 0 {
				continue
			}
			good = false
			e := nodeErrors[id]
			if e == nil {
				e = &nodeProblem{Errors: found, Class: *n.Class}
				nodeErrors[id] = e
			}
			e.Outputs = append(e.Outputs, output)
			for _, f := range found {
				all = append(all, f.Message+": "+f.Details)
			}
		}
		if good {
			outputs = append(outputs, output)
		}
	}
	if len(outputs) == 0 {
		return nil, &problem{"prompt_outputs_failed_validation", "Prompt outputs failed validation", strings.Join(all, "\n"), map[string]any{}}, nodeErrors
	}
	return outputs, nil, nodeErrors
}

// upstream lists what a node depends on, in the order of execution.
func upstream(workflow map[string]*workflowNode, id string) []string {
	var order []string
	seen := map[string]bool{id: true}
	var visit func(string)
	visit = func(id string) {
		for _, name := range slices.Sorted(maps.Keys(workflow[id].Inputs)) {
			if from, ok := link(workflow[id].Inputs[name]); ok && workflow[from] != nil && !seen[from] {
				seen[from] = true
				visit(from)
				order = append(order, from)
			}
		}
	}
	visit(id)
	return order
}

// A result is what a node made, kept for prompts that have the same node with
// the same inputs.
type result struct{ ui map[string]any }

var (
	errInterrupted = errors.New("InterruptProcessingException")
	errKilled      = errors.New("killed")
)

// A raised error is an exception of a node.
type raised struct{ kind, message string }

func (r *raised) Error() string { return r.kind + ": " + r.message }

// execute is prompt_worker of main.py.
func (p *process) execute() {
	for {
		i := p.get(p.ctx)
		if i == nil {
			return
		}
		p.Server.mu.Lock()
		p.executed = append(p.executed, i.id)
		p.Server.mu.Unlock()
		r, err := p.prompt(i)
		if errors.Is(err, errKilled) {
			return
		}
		p.done(r)
		if i.client != "" {
			p.tell("executing", map[string]any{"node": nil, "prompt_id": i.id}, i.client)
		}
	}
}

// prompt is execute_async of execution.py.
func (p *process) prompt(i *item) (*record, error) {
	p.setInterrupt(false)
	p.setNode(i.client, "")
	r := &record{Prompt: i, Outputs: map[string]any{}, Meta: map[string]any{}, Status: status{Str: "success", Completed: true, Messages: [][2]any{}}}
	message := func(event string, data map[string]any) {
		data["prompt_id"] = i.id
		data["timestamp"] = time.Now().UnixMilli()
		r.Status.Messages = append(r.Status.Messages, [2]any{event, data})
		if i.client != "" || event == "execution_interrupted" {
			p.tell(event, data, i.client)
		}
	}
	message("execution_start", map[string]any{})
	cached := []string{}
	for id := range i.workflow {
		if _, ok := p.cache[signature(i.workflow, id)]; ok {
			cached = append(cached, id)
		}
	}
	message("execution_cached", map[string]any{"nodes": cached})

	x := &execution{process: p, item: i, states: map[string]*nodeState{}}
	executed := []string{}
nodes:
	for _, output := range i.outputs {
		for _, id := range append(upstream(i.workflow, output), output) {
			if slices.Contains(executed, id) {
				continue
			}
			class := *i.workflow[id].Class
			ui, err := x.node(id)
			var exception *raised
			switch {
			case err == nil:
			case errors.Is(err, errKilled):
				return nil, err
			case errors.Is(err, errInterrupted):
				message("execution_interrupted", map[string]any{"node_id": id, "node_type": class, "executed": executed})
			case errors.As(err, &exception):
				message("execution_error", map[string]any{
					"node_id": id, "node_type": class, "executed": executed,
					"exception_message": exception.message + "\n", "exception_type": exception.kind,
					"traceback":      []string{"  File \"/opt/ComfyUI/execution.py\", line 524, in execute\n", "  File \"/opt/ComfyUI/nodes.py\", line 1, in run\n"},
					"current_inputs": map[string]any{}, "current_outputs": executed,
				})
			}
			if err != nil {
				r.Status.Str, r.Status.Completed = "error", false
				break nodes
			}
			executed = append(executed, id)
			if ui != nil {
				r.Outputs[id] = ui
				r.Meta[id] = map[string]any{"node_id": id, "display_node": id, "parent_node": nil, "real_node_id": id}
			}
		}
	}
	if r.Status.Completed {
		message("execution_success", map[string]any{})
	}
	p.setNode(i.client, "")
	return r, nil
}

// An execution is one prompt's.
type execution struct {
	*process
	item   *item
	states map[string]*nodeState
}

type nodeState struct {
	State string  `json:"state"`
	Value float64 `json:"value"`
	Max   float64 `json:"max"`
	ID    string  `json:"node_id"`
	Real  string  `json:"real_node_id"`
}

// node is execute of execution.py.
func (x *execution) node(id string) (map[string]any, error) {
	key := signature(x.item.workflow, id)
	made, ok := x.cache[key]
	if !ok {
		x.progress(id, "running", 0, 1)
		if x.item.client != "" {
			x.setNode(x.item.client, id)
			x.tell("executing", map[string]any{"node": id, "display_node": id, "prompt_id": x.item.id}, x.item.client)
		}
		n := x.item.workflow[id]
		ui, err := classes[*n.Class].run(x, id, n.Inputs)
		if err != nil {
			return nil, err
		}
		made = result{ui}
		x.cache[key] = made
	}
	if made.ui != nil && x.item.client != "" {
		x.tell("executed", map[string]any{"node": id, "display_node": id, "output": made.ui, "prompt_id": x.item.id}, x.item.client)
	}
	x.progress(id, "finished", 1, 1)
	return made.ui, nil
}

func (x *execution) progress(id, state string, value, most float64) {
	x.states[id] = &nodeState{state, value, most, id, id}
	if x.item.client != "" {
		nodes := map[string]nodeState{} // as they are now
		for id, s := range x.states {
			nodes[id] = *s
		}
		x.tell("progress_state", map[string]any{"prompt_id": x.item.id, "nodes": nodes}, x.item.client)
	}
}

// signature stands for a node and all that it depends on.
func signature(workflow map[string]*workflowNode, id string) string {
	var all []any
	for _, id := range append(upstream(workflow, id), id) {
		all = append(all, id, *workflow[id].Class, workflow[id].Inputs)
	}
	data, err := json.Marshal(all)
	if err != nil {
		panic(fmt.Sprintf("comfytest: %v", err)) // of what was JSON
	}
	return string(data)
}

func (p *process) setInterrupt(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flag = on
}

// interrupted is throw_exception_if_processing_interrupted.
func (p *process) interrupted() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flag {
		p.flag = false
		return errInterrupted
	}
	return nil
}

func (p *process) setNode(client, node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.client, p.lastNode = client, node
}
