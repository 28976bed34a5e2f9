declare const built: unique symbol

/** Names a service, and carries the type of what `use` returns for it. */
export interface Service<T> {
  readonly name: string
  readonly [built]?: T
}

/** Declares a service. Declare it beside its type; the feature provides the builder. */
export const service = <T>(name: string): Service<T> => ({ name })
