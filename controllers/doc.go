// Package controllers has the operator's reconcilers.
package controllers
