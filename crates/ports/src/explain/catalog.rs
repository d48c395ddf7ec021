//! EADDRNOTAVAIL and EADDRINUSE in the languages of the C library, in lower case.
//!
//! Source: the message catalogs of glibc 2.36 (`libc.mo`, the texts of `strerror`).

/// Language, "Cannot assign requested address", "Address already in use".
pub(super) const CATALOG: &[(&str, &str, &str)] = &[
    ("bg", "недостъпен адрес на гнездо (socket)", "адресът вече се използва"),
    ("ca", "no s’ha pogut assignar l’adreça sol·licitada", "l’adreça ja és en ús"),
    ("cs", "požadovanou adresu nelze přiřadit", "adresa je užívána"),
    ("da", "kan ikke tildele den ønskede adresse", "adressen er allerede i brug"),
    (
        "de",
        "die angeforderte adresse kann nicht zugewiesen werden",
        "die adresse wird bereits verwendet",
    ),
    (
        "el",
        "δεν είναι δυνατή η εκχώρηση της ζητηθήσας διεύθυνσης",
        "η διεύθυνση υποδοχής είναι ήδη σε χρήση",
    ),
    ("eo", "ne eblas asigni petatan adreson", "adreso jam uziĝas"),
    ("es", "no se puede asignar la dirección solicitada", "la dirección ya se está usando"),
    ("fi", "pyydettyä osoitetta ei voi asettaa", "osoite on jo käytössä"),
    ("fr", "ne peut attribuer l'adresse demandée", "adresse déjà utilisée"),
    ("gl", "non se pode asigna-lo enderezo pedido", "estase usando o enderezo"),
    ("hr", "nije moguće dodijeliti zatraženu adresu", "adrese se već koriste"),
    ("hu", "nem sikerült a kért címet hozzárendelni", "a cím már használatban van"),
    ("id", "tidak dapat menempatkan permintaan alamat", "alamat telah digunakan"),
    ("it", "impossibile assegnare l'indirizzo richiesto", "indirizzo già in uso"),
    ("ja", "要求アドレスに割り当てられません", "アドレスは既に使用中です"),
    ("ko", "요청한 주소를 배정할 수 없습니다", "주소가 이미 사용 중입니다"),
    ("lt", "nepavyko priskirti prašomo adreso", "adresas jau naudojamas"),
    ("nb", "kan ikke benytte den ønskede adressen", "adressen er allerede i bruk"),
    ("nl", "kan verzochte adres niet toewijzen", "adres is al in gebruik"),
    ("pl", "nie można przypisać żądanego adresu", "adres jest już w użyciu"),
    ("pt", "impossível atribuir o endereço pedido", "endereço já em uso"),
    ("pt_BR", "não foi possível acessar o endereço requisitado", "endereço já em uso"),
    ("ru", "невозможно назначить запрошенный адрес", "адрес уже используется"),
    ("sk", "priradenie požadovanej adresy nie je možné", "adresa je používaná"),
    ("sl", "zahtevanega naslova ni mogoče dodeliti", "naslov je že v rabi"),
    ("sr", "не могу да доделим захтевану адресу", "адреса је већ у употреби"),
    ("sv", "kan inte tilldela begärd adress", "adressen redan upptagen"),
    ("tr", "i̇stenen adres bulunamıyor", "adres zaten kullanımda"),
    ("uk", "не вдалося призначити вказану адресу", "адресу вже використано"),
    ("vi", "không thể gán địa chỉ đã yêu cầu", "địa chỉ đang được dùng"),
    ("zh_CN", "无法指定被请求的地址", "地址已在使用"),
    // Later catalogs.
    ("zh_CN", "无法分配请求的地址", "地址已被使用"),
    ("de", "kann die angeforderte adresse nicht zuweisen", "adresse wird bereits benutzt"),
    ("zh_TW", "無法指定所需的位址", "位址已經有在使用"),
];
