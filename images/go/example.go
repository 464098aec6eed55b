// What this image offers, used once: prints `ok`.
package main

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/samber/lo"
	"github.com/shopspring/decimal"
	"golang.org/x/text/cases"
	"golang.org/x/text/language"
	"gonum.org/v1/gonum/mat"
	"gopkg.in/yaml.v3"
)

func must(right bool) {
	if !right {
		panic("wrong")
	}
}

func main() {
	matrix := mat.NewDense(2, 2, []float64{2, 1, 1, 3})
	must(int(mat.Det(matrix)+0.5) == 5)
	must(len(uuid.NewString()) == 36)
	must(slices.Equal(lo.Uniq([]int{1, 1, 2}), []int{1, 2}))
	must(decimal.RequireFromString("0.1").Add(decimal.RequireFromString("0.2")).String() == "0.3")
	must(cases.Title(language.English).String("ab") == "Ab")
	var parsed map[string]int
	must(yaml.Unmarshal([]byte("a: 1"), &parsed) == nil && parsed["a"] == 1)
	fmt.Println("ok")
}
