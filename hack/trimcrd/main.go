// Trimcrd makes the Job template in the CRD of Debounces fit to be there.
//
// It takes out the descriptions of Kubernetes' own types: there are 500 kB of them, with
// which client-side apply could not take the CRD any more, and they say nothing that
// "kubectl explain job" does not. And it takes out rules about what cannot change in a
// Job that exists, for in a template it can.
//
//	go run ./hack/trimcrd FILE
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// template is where the Job template's schema stands in a version's schema.
var template = []string{
	"schema", "openAPIV3Schema", "properties", "spec", "properties", "action", "properties", "job", "properties", "template", "properties",
}

func main() {
	if err := trim(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "trimcrd:", err)
		os.Exit(1)
	}
}

func trim(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: trimcrd FILE")
	}
	content, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var crd map[string]any
	if err := yaml.Unmarshal(content, &crd); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	spec, _ := crd["spec"].(map[string]any)
	versions, _ := spec["versions"].([]any)
	for _, version := range versions {
		at, _ := version.(map[string]any)
		for _, field := range template {
			at, _ = at[field].(map[string]any)
		}
		if len(at) == 0 {
			return fmt.Errorf("%s: found no Job template in it", args[0])
		}
		for _, property := range at {
			clean(property)
		}
	}
	content, err = yaml.Marshal(crd)
	if err != nil {
		return err
	}
	return os.WriteFile(args[0], append([]byte("---\n"), content...), 0o644)
}

// clean goes through a schema. Where that has properties, their keys are names, and one
// may be called description.
func clean(schema any) {
	object, ok := schema.(map[string]any)
	if !ok {
		return
	}
	delete(object, "description")
	if rules, ok := object["x-kubernetes-validations"].([]any); ok {
		rules = slices.DeleteFunc(rules, aboutChange)
		object["x-kubernetes-validations"] = rules
		if len(rules) == 0 {
			delete(object, "x-kubernetes-validations")
		}
	}
	if properties, ok := object["properties"].(map[string]any); ok {
		for _, property := range properties {
			clean(property)
		}
	}
	clean(object["items"])
	clean(object["additionalProperties"])
}

func aboutChange(rule any) bool {
	object, _ := rule.(map[string]any)
	expression, _ := object["rule"].(string)
	return strings.Contains(expression, "oldSelf")
}
