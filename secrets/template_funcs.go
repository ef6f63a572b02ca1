package secrets

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/Masterminds/sprig/v3"
)

// sprigFunctions are sprig's functions that templates may call, by name: one that a newer sprig adds is not
// there until somebody has read it. None reads the node's environment, clock, network or files, none is random, and none makes keys
// or output as large as a number says. docs/templates.md has the same list.
var sprigFunctions = strings.Fields(`
	hello
	duration must_date_modify mustDateModify unixEpoch
	abbrev abbrevboth trunc trim upper lower title untitle substr trimall trimAll trimSuffix trimPrefix nospace initials
	swapcase snakecase camelcase kebabcase wrap wrapWith contains hasPrefix hasSuffix quote squote cat indent nindent replace plural
	sha1sum sha256sum sha512sum adler32sum toString
	atoi int64 int float64 toDecimal split splitList splitn toStrings
	add1 add sub div mod mul add1f addf subf divf mulf biggest max min maxf minf ceil floor round
	join sortAlpha
	default empty coalesce all any compact mustCompact fromJson toJson toPrettyJson toRawJson
	mustFromJson mustToJson mustToPrettyJson mustToRawJson ternary deepCopy mustDeepCopy
	typeOf typeIs typeIsLike kindOf kindIs deepEqual
	base dir clean ext isAbs osBase osClean osDir osExt osIsAbs
	b64enc b64dec b32enc b32dec
	tuple list dict get set unset hasKey pluck pick omit merge mergeOverwrite mustMerge mustMergeOverwrite
	append push mustAppend mustPush prepend mustPrepend first mustFirst rest mustRest last mustLast initial mustInitial
	reverse mustReverse uniq mustUniq without mustWithout has mustHas slice mustSlice concat dig chunk mustChunk
	semver semverCompare
	fail
	regexMatch mustRegexMatch regexFindAll mustRegexFindAll regexFind mustRegexFind regexReplaceAll mustRegexReplaceAll
	regexReplaceAllLiteral mustRegexReplaceAllLiteral regexSplit mustRegexSplit regexQuoteMeta
	urlParse urlJoin`)

// ownFunctions stand in the place of Go's own and sprig's. Of Go's, "call", "and", "or", "not" and "len" are left:
// they have nothing to bound.
var ownFunctions = template.FuncMap{
	// Go's take and make text of any size, or compare it.
	"print":    printed(fmt.Sprint),
	"println":  printed(fmt.Sprintln),
	"printf":   printf,
	"html":     template.HTMLEscaper,
	"js":       template.JSEscaper,
	"urlquery": template.URLQueryEscaper,
	// Go's gives nothing for a key that is not there.
	"index": index,
	"eq":    equalsAny, "ne": differs, "lt": less, "le": lessOrEqual, "gt": greater, "ge": greaterOrEqual,
	// Sprig's are in an order of chance, and each render must give the same (C7).
	"keys":   sortedKeys,
	"values": sortedValues,
	// Sprig's take the node's time zone.
	"toDate":     toDate,
	"mustToDate": mustToDate,
	// Sprig has neither.
	"pkcs12": pkcs12Store,
	"jks":    jksStore,
}

// functions are what a template of this run may call, each guarded: its arguments and its result are
// weighed, and the clock is looked at. Functions whose work or output is more than a small multiple of
// their arguments have a guard of their own.
func (r *templateRun) functions() template.FuncMap {
	all := allowed(sprig.TxtFuncMap())
	for name, guard := range guards {
		all[name] = guarded(all[name], guard)
	}
	for name, fn := range all {
		all[name] = withPlainNumbers(fn)
	}
	maps.Copy(all, ownFunctions)
	for name, fn := range all {
		all[name] = r.weighed(fn)
	}
	all[fnTick], all[fnEnter], all[fnLeave], all[fnEmit], all[fnSmall] = r.tick, r.enter, r.leave, r.emit, r.small
	return all
}

// allowed are those of sprig's functions that templates may call.
func allowed(sprigs template.FuncMap) template.FuncMap {
	all := template.FuncMap{}
	for _, name := range sprigFunctions {
		all[name] = sprigs[name]
	}
	return all
}

// weighed is fn with its arguments and result admitted by the run, and errors where it panics.
func (r *templateRun) weighed(fn any) any {
	f := reflect.ValueOf(fn)
	t := f.Type()
	errType := reflect.TypeFor[error]()
	in := make([]reflect.Type, t.NumIn())
	for i := range in {
		in[i] = t.In(i)
	}
	out := []reflect.Type{t.Out(0), errType}
	fail := func(err error) []reflect.Value {
		return []reflect.Value{reflect.Zero(t.Out(0)), reflect.ValueOf(&err).Elem()}
	}
	return reflect.MakeFunc(reflect.FuncOf(in, out, t.IsVariadic()), func(args []reflect.Value) []reflect.Value {
		if _, err := r.tick(); err != nil {
			return fail(err)
		}
		w := weight{limit: maxTemplateOutput}
		for _, a := range args {
			w.add(a, 0)
		}
		if w.over {
			return fail(errTemplateWeight)
		}
		var res []reflect.Value
		if t.IsVariadic() {
			res = f.CallSlice(args)
		} else {
			res = f.Call(args)
		}
		if len(res) == 2 && !res[1].IsNil() {
			return fail(res[1].Interface().(error))
		}
		w = weight{limit: maxTemplateOutput}
		w.add(res[0], 0)
		if w.over {
			return fail(errTemplateWeight)
		}
		if err := r.makes(w.sum); err != nil {
			return fail(err)
		}
		return []reflect.Value{res[0], reflect.Zero(errType)}
	}).Interface()
}

// index is Go's, but for a key that a map does not have, which is an error.
func index(item any, keys ...any) (any, error) {
	for _, key := range keys {
		v := reflect.ValueOf(item)
		switch v.Kind() {
		case reflect.Map:
			k := reflect.ValueOf(key)
			if !k.IsValid() || !k.Type().ConvertibleTo(v.Type().Key()) || k.Kind() != v.Type().Key().Kind() {
				return nil, errors.New("index: not a key of this map")
			}
			e := v.MapIndex(k.Convert(v.Type().Key()))
			if !e.IsValid() {
				return nil, errTemplateKey
			}
			item = e.Interface()
		case reflect.Slice, reflect.Array, reflect.String:
			k := reflect.ValueOf(key)
			if !k.IsValid() || !k.CanInt() || k.Int() < 0 || k.Int() >= int64(v.Len()) {
				return nil, errTemplateKey
			}
			item = v.Index(int(k.Int())).Interface()
		default:
			return nil, errors.New("index: neither a map nor a list")
		}
	}
	return item, nil
}

func sortedKeys(dicts ...map[string]any) []string {
	var out []string
	for _, d := range dicts {
		out = append(out, slices.Sorted(maps.Keys(d))...)
	}
	return out
}

func sortedValues(dict map[string]any) []any {
	var out []any
	for _, key := range slices.Sorted(maps.Keys(dict)) {
		out = append(out, dict[key])
	}
	return out
}

func toDate(layout, text string) time.Time {
	t, _ := mustToDate(layout, text)
	return t
}

func mustToDate(layout, text string) (time.Time, error) { return time.Parse(layout, text) }
