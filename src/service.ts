declare const built: unique symbol

/** Names a service, and carries the type of what `use` returns for it. */
export interface Service<T> {
  readonly name: string
  readonly [built]?: T
}

/** Declares a service. Declare it beside its type; the feature provides the builder. */
export const service = <T>(name: string): Service<T> => ({ name })

/** An object whose parts are built at their first use. `given` are parts that exist already. */
export function lazily<T extends object, Given extends object = object>(
  builders: { [K in keyof T]: () => T[K] },
  given?: Given,
): T & Given {
  const parts = { ...given } as T & Given // the getters below provide the other parts
  for (const key of Object.keys(builders) as (keyof T)[]) {
    Object.defineProperty(parts, key, {
      configurable: true,
      enumerable: true,
      get() {
        const value = builders[key]()
        Object.defineProperty(parts, key, { value, enumerable: true })
        return value
      },
    })
  }
  return parts
}
