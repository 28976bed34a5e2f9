/** Whether an entry of a stream comes after another, by their ids: `<ms>-<number>`. Every entry comes after `''`. */
export function isAfter(id: string, other: string): boolean {
  if (other === '') return true
  const [ms = 0, number = 0] = id.split('-').map(Number)
  const [otherMs = 0, otherNumber = 0] = other.split('-').map(Number)
  return ms > otherMs || (ms === otherMs && number > otherNumber)
}
