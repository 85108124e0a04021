package machine

import (
	"reflect"
	"strings"
	"testing"
)

// TestRecipeKey: every field of a recipe, and nothing else, makes its key.
func TestRecipeKey(t *testing.T) {
	t.Parallel()
	base := newRecipe(Trixie, nil).key()
	if again := newRecipe(Trixie, nil).key(); again != base {
		t.Errorf("the same recipe has the keys %s and %s", base, again)
	}
	if !strings.HasPrefix(base, "trixie-") || strings.ContainsAny(base, " ,:/") {
		t.Errorf("key %q does not name a folder that can be mounted", base)
	}
	for i := range reflect.TypeFor[recipe]().NumField() {
		r := newRecipe(Trixie, nil)
		field := reflect.ValueOf(&r).Elem().Field(i)
		switch field.Kind() {
		case reflect.Int, reflect.Int64:
			field.SetInt(field.Int() + 1)
		case reflect.Bool:
			field.SetBool(!field.Bool())
		case reflect.String:
			field.SetString(field.String() + "x")
		case reflect.Slice:
			field.Set(reflect.AppendSlice(reflect.ValueOf([]string{"x"}), field))
		default:
			t.Fatalf("a field of kind %s", field.Kind())
		}
		if r.key() == base {
			t.Errorf("field %s does not change the key", reflect.TypeFor[recipe]().Field(i).Name)
		}
	}
}
